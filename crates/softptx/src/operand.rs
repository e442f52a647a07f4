//! Operands of instructions.

use std::collections::HashMap;

use crate::Result;
use crate::lexer::{Tokens, number};

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Register(u32),
    /// A predicate's opposite.
    Not(u32),
    Constant(u64),
    Special(Special),
}

/// Registers that hold a thread's place; the number is the dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
}

#[derive(Debug, Clone)]
pub(crate) enum Operand<'s> {
    Value(Value),
    /// `[base + offset]`
    Address(Value, i64),
    Vector(Vec<Operand<'s>>),
    /// A word that names nothing: a label, or `_`.
    Word(&'s str),
}

/// What names mean at some place of a kernel.
#[derive(Debug)]
pub(crate) struct Names {
    /// Registers, the innermost scope last.
    scopes: Vec<HashMap<String, u32>>,
    /// Addresses of variables and offsets of parameters.
    pub(crate) symbols: HashMap<String, u64>,
    pub(crate) registers: u32,
}

impl Names {
    pub(crate) fn new(symbols: HashMap<String, u64>) -> Self {
        Self { scopes: Vec::new(), symbols, registers: 0 }
    }

    pub(crate) fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// Closes a scope; are others open?
    pub(crate) fn close(&mut self) -> bool {
        self.scopes.pop();
        !self.scopes.is_empty()
    }

    fn register(&mut self, name: String) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, self.registers);
            self.registers += 1;
        }
    }

    /// What follows `.reg`: a type, then names, `%r<4>` being `%r0` to `%r3`.
    pub(crate) fn declare(&mut self, tokens: &mut Tokens<'_>) -> Result<()> {
        tokens.next();
        loop {
            let name = tokens.next();
            if tokens.eat("<") {
                let count = tokens.number()?;
                tokens.want(">")?;
                (0..count).for_each(|i| self.register(format!("{name}{i}")));
            } else {
                self.register(name.to_owned());
            }
            if tokens.eat(";") {
                return Ok(());
            }
            tokens.want(",")?;
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Value> {
        let register = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        register
            .map(|&register| Value::Register(register))
            .or_else(|| special(name).map(Value::Special))
            .or_else(|| self.symbols.get(name).map(|&address| Value::Constant(address)))
            .or_else(|| number(name).map(Value::Constant))
    }

    /// The operands of an instruction, up to its semicolon. `a|b` gives two.
    pub(crate) fn operands<'s>(&self, tokens: &mut Tokens<'s>) -> Result<Vec<Operand<'s>>> {
        let mut found = Vec::new();
        while !tokens.eat(";") {
            if !found.is_empty() && !tokens.eat(",") {
                tokens.want("|")?;
            }
            found.push(self.operand(tokens)?);
        }
        Ok(found)
    }

    fn operand<'s>(&self, tokens: &mut Tokens<'s>) -> Result<Operand<'s>> {
        if tokens.eat("{") {
            let mut parts = vec![self.operand(tokens)?];
            while tokens.eat(",") {
                parts.push(self.operand(tokens)?);
            }
            tokens.want("}")?;
            return Ok(Operand::Vector(parts));
        }
        if tokens.eat("[") {
            let base = self.value(tokens)?;
            let offset = if tokens.eat("]") { 0 } else { signed(tokens)? };
            return Ok(Operand::Address(base, offset));
        }
        if tokens.eat("!") {
            return match self.value(tokens)? {
                Value::Register(register) => Ok(Operand::Value(Value::Not(register))),
                _ => Err(tokens.unexpected("a predicate")),
            };
        }
        if tokens.eat("-") {
            let value = self.value(tokens)?;
            return match value {
                Value::Constant(value) => Ok(Operand::Value(Value::Constant(value.wrapping_neg()))),
                _ => Err(tokens.unexpected("a number")),
            };
        }
        let word = tokens.next();
        Ok(self.find(word).map_or(Operand::Word(word), Operand::Value))
    }

    fn value(&self, tokens: &mut Tokens<'_>) -> Result<Value> {
        let found = self.find(tokens.peek());
        let value = found.ok_or_else(|| tokens.unexpected("a register, a symbol or a number"))?;
        tokens.next();
        Ok(value)
    }
}

/// What stands behind an address: `+ 4]`, `+ -4]` or `- 4]`.
fn signed(tokens: &mut Tokens<'_>) -> Result<i64> {
    let mut sign = 1;
    if !tokens.eat("+") {
        tokens.want("-")?;
        sign = -1;
    } else if tokens.eat("-") {
        sign = -1;
    }
    let offset = sign * tokens.number()? as i64;
    tokens.want("]")?;
    Ok(offset)
}

fn special(name: &str) -> Option<Special> {
    if name == "%laneid" {
        return Some(Special::Lane);
    }
    let (name, dimension) = name.split_at_checked(name.len().checked_sub(2)?)?;
    let dimension = [".x", ".y", ".z"].iter().position(|&known| known == dimension)?;
    Some(match name {
        "%tid" => Special::Thread(dimension),
        "%ntid" => Special::Threads(dimension),
        "%ctaid" => Special::Block(dimension),
        "%nctaid" => Special::Blocks(dimension),
        _ => return None,
    })
}
