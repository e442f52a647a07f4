//! A PTX source as kernels that can be launched.

use std::collections::HashMap;

use crate::decode::{Instruction, Op, decode};
use crate::lexer::{Tokens, number};
use crate::memory::Memory;
use crate::operand::{Names, Operand, Value};
use crate::types::Type;
use crate::{Fault, Kind, Result};

/// The kernels of a source.
#[derive(Debug)]
pub struct Module {
    entries: Vec<Entry>,
    /// Of the variables outside of kernels.
    variables: Vec<u64>,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    name: String,
    /// Offset and bytes of each parameter.
    parameters: Vec<(usize, usize)>,
    /// Bytes of shared memory.
    pub(crate) shared: usize,
    /// The most threads of a block, if it says.
    pub(crate) max_threads: Option<usize>,
    pub(crate) registers: usize,
    pub(crate) code: Vec<Instruction>,
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Offset and size, in bytes, of each parameter in what [`Launch`](crate::Launch) takes.
    pub fn parameters(&self) -> &[(usize, usize)] {
        &self.parameters
    }
}

impl Module {
    /// Reads a source; its variables are put into `memory`.
    ///
    /// # Errors
    /// [`Kind::Unknown`] for whatever this crate does not know.
    pub fn load(source: &str, memory: &mut Memory) -> Result<Self> {
        let mut tokens = Tokens::new(source);
        let mut module = Self { entries: Vec::new(), variables: Vec::new() };
        let (mut symbols, mut shared) = (HashMap::new(), 0);
        while !tokens.is_done() {
            match tokens.next() {
                ".version" | ".target" | ".address_size" => {
                    tokens.next();
                }
                ".visible" | ".weak" | ".extern" => {}
                ".global" | ".const" => {
                    let (name, bytes) = variable(&mut tokens)?;
                    let address = memory.upload(&bytes);
                    module.variables.push(address);
                    symbols.insert(name, address);
                }
                // Every kernel's shared memory begins with those that several may use.
                ".shared" => shared = share(&mut tokens, shared, &mut symbols)?,
                ".entry" => {
                    let entry = entry(&mut tokens, &symbols, shared)?;
                    module.entries.push(entry);
                }
                other => return Err(tokens.unknown(format!("`{other}` is not known here"))),
            }
        }
        Ok(module)
    }

    /// The kernel called `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The kernels.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Frees its variables.
    pub fn unload(self, memory: &mut Memory) {
        for address in self.variables {
            memory.free(address);
        }
    }
}

/// `.align 4 .f32 name[3]`: alignment, element size, name, number of elements.
fn declaration<'s>(tokens: &mut Tokens<'s>) -> Result<(usize, usize, &'s str, usize)> {
    let (mut align, mut size) = (1, 0);
    loop {
        if tokens.eat(".align") {
            align = tokens.number()?;
        } else if let Some(ty) = tokens.peek().strip_prefix('.').and_then(Type::named) {
            tokens.next();
            size = ty.size();
        } else if !(tokens.eat(".ptr") || tokens.eat(".global")) {
            break;
        }
    }
    let name = tokens.next();
    let mut count = 1;
    if tokens.eat("[") {
        count = tokens.number()?;
        tokens.want("]")?;
    }
    Ok((align.max(size), size, name, count))
}

/// What follows `.shared`: a variable's place behind `end` bytes of others; the new end.
fn share(tokens: &mut Tokens<'_>, end: usize, symbols: &mut HashMap<String, u64>) -> Result<usize> {
    let (align, size, name, count) = declaration(tokens)?;
    tokens.want(";")?;
    let start = end.next_multiple_of(align);
    symbols.insert(name.to_owned(), start as u64);
    Ok(start + size * count)
}

/// A variable outside of kernels: its name and bytes, zero where it says nothing.
fn variable(tokens: &mut Tokens<'_>) -> Result<(String, Vec<u8>)> {
    let (_, size, name, count) = declaration(tokens)?;
    let mut bytes = Vec::with_capacity(size * count);
    if tokens.eat("=") {
        let many = tokens.eat("{");
        while !(tokens.eat("}") || tokens.peek() == ";") {
            let negative = tokens.eat("-");
            let value = number(tokens.peek()).ok_or_else(|| tokens.unexpected("a number"))?;
            tokens.next();
            let value = if negative { value.wrapping_neg() } else { value };
            bytes.extend(&value.to_le_bytes()[..size]);
            if many && tokens.peek() != "}" {
                tokens.want(",")?;
            }
        }
    }
    tokens.want(";")?;
    bytes.resize(size * count, 0);
    Ok((name.to_owned(), bytes))
}

/// A kernel, from behind `.entry` to its closing brace.
fn entry(tokens: &mut Tokens<'_>, symbols: &HashMap<String, u64>, shared: usize) -> Result<Entry> {
    let name = tokens.next().to_owned();
    let mut names = Names::new(symbols.clone());
    let mut parameters = Vec::new();
    let mut end = 0usize;
    tokens.want("(")?;
    while !tokens.eat(")") {
        tokens.want(".param")?;
        let (align, size, name, count) = declaration(tokens)?;
        let offset = end.next_multiple_of(align);
        end = offset + size * count;
        parameters.push((offset, size * count));
        names.symbols.insert(name.to_owned(), offset as u64);
        tokens.eat(",");
    }
    let mut max_threads = None;
    while !tokens.eat("{") {
        match tokens.next() {
            ".maxntid" => max_threads = Some(dimensions(tokens)?),
            ".minnctapersm" => {
                tokens.number()?;
            }
            _ => return Err(tokens.unexpected("`{`")),
        }
    }
    let mut entry = Entry { name, parameters, shared, max_threads, registers: 0, code: vec![] };
    body(tokens, &mut names, &mut entry)?;
    entry.registers = names.registers as usize;
    Ok(entry)
}

/// `128, 1, 1` as a product.
fn dimensions(tokens: &mut Tokens<'_>) -> Result<usize> {
    let mut product = tokens.number()?;
    while tokens.eat(",") {
        product *= tokens.number()?;
    }
    Ok(product)
}

/// Declarations, labels and instructions.
fn body(tokens: &mut Tokens<'_>, names: &mut Names, entry: &mut Entry) -> Result<()> {
    let (mut labels, mut branches) = (HashMap::new(), Vec::new());
    names.open();
    loop {
        let (line, word) = (tokens.line(), tokens.next());
        match word {
            "" => return Err(tokens.unexpected("`}`")),
            "{" => names.open(),
            "}" if !names.close() => break,
            "}" | ";" => {}
            ".reg" => names.declare(tokens)?,
            ".shared" => entry.shared = share(tokens, entry.shared, &mut names.symbols)?,
            ".pragma" => tokens.skip(";"),
            ".loc" => (0..3).for_each(|_| {
                tokens.next();
            }),
            _ if tokens.eat(":") => {
                labels.insert(word, entry.code.len());
            }
            _ => {
                let (guard, word) = guard(tokens, names, word)?;
                let operands = names.operands(tokens)?;
                if let (true, [Operand::Word(label)]) = (word.starts_with("bra"), &operands[..]) {
                    branches.push((entry.code.len(), *label, line));
                }
                let op = decode(word, &operands)
                    .map_err(|text| Fault::new(line, Kind::Unknown, format!("`{word}`: {text}")))?;
                entry.code.push(Instruction { guard, op, line });
            }
        }
    }
    for (at, label, line) in branches {
        let target = labels.get(label);
        let unknown = || Fault::new(line, Kind::Unknown, format!("no label `{label}`"));
        entry.code[at].op = Op::Branch(*target.ok_or_else(unknown)?);
    }
    Ok(())
}

/// `@%p1 name` or `@!%p1 name`: the predicate and the instruction's name.
fn guard<'s>(
    tokens: &mut Tokens<'s>,
    names: &Names,
    word: &'s str,
) -> Result<(Option<Value>, &'s str)> {
    if word != "@" {
        return Ok((None, word));
    }
    let negated = tokens.eat("!");
    let guard = match names.find(tokens.peek()) {
        Some(Value::Register(register)) if negated => Value::Not(register),
        Some(Value::Register(register)) => Value::Register(register),
        _ => return Err(tokens.unexpected("a predicate")),
    };
    tokens.next();
    Ok((Some(guard), tokens.next()))
}
