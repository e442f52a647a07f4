//! The gate before the template engine: a chat template comes with a file and may be hostile.
//!
//! * The text, its tokens and each expression are bounded before anything is parsed, so that no
//!   tree is deep: parser, compiler and their drops recurse.
//! * Whatever builds a container is followed by a check of the result ([`Bounds`]): compiled
//!   instructions are copied with a call behind each of them. The call has a name that no template
//!   can write, so none can replace it.
//! * Fuel bounds the steps and the bytes; its amount follows from the conversation.
//! * All of it runs on a thread whose stack has a known size; a panic becomes an error.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::quiet::on_stack;
use super::values::{self, Bounds};
use crate::text::TextError;

/// Bytes of a template; the longest published ones have 30,000.
const SOURCE: usize = 1 << 18;
/// Tokens of a template; the longest published ones have 6,000.
const TOKENS: usize = 50_000;
/// Tokens between `{{` and `}}`, or `{%` and `%}`.
const EXPRESSION: usize = 3_000;
/// `elif` lies in the `else` of the `if` before it.
const ELIFS: usize = 500;
/// How often the lists of one expression may be repeated, all counts multiplied.
const REPEATS: u64 = 64;
/// Names of what a template keeps in namespaces.
const ATTRIBUTES: usize = 64;
/// Bytes of stack: what the bounds above and the engine's own on macros in macros need without
/// optimization, many times over.
const STACK: usize = 64 << 20;

const CHECK: &str = "checked value";
const CHECK_STORED: &str = "checked value of a namespace";

type Method = fn(&mut State<'_, '_>, &Value, &str, &[Value]) -> Result<Value, Error>;

/// A template with what it is rendered with.
pub(in crate::text) struct Job<'j> {
    pub(in crate::text) source: &'j str,
    pub(in crate::text) syntax: SyntaxConfig,
    /// Bytes and number of the messages: they decide how much work is a lot.
    pub(in crate::text) bytes: usize,
    pub(in crate::text) messages: usize,
    /// Python's methods.
    pub(in crate::text) methods: Method,
}

impl Job<'_> {
    /// Renders the template in an environment that `prepare` has filled, with the values that it
    /// returns.
    pub(in crate::text) fn render(
        &self,
        prepare: impl FnOnce(&mut Environment<'_>) -> Value + Send,
    ) -> Result<String, TextError> {
        let failed = |reason: &dyn std::fmt::Display| {
            TextError(format!("the chat template cannot be rendered: {reason}"))
        };
        match on_stack(STACK, || self.run(prepare).map_err(|error| failed(&error))) {
            Ok(Some(result)) => result,
            Ok(None) => Err(failed(&"the template engine failed on it, which is a bug of it")),
            Err(error) => Err(failed(&format_args!("no thread for it: {error}"))),
        }
    }

    fn run(&self, prepare: impl FnOnce(&mut Environment<'_>) -> Value) -> Result<String, Error> {
        self.check_source()?;
        let bounds = Bounds::new(self.bytes);
        let mut environment = Environment::new();
        environment.set_syntax(self.syntax.clone());
        // A step a byte pays for some sixty copies of every text.
        let fuel = 200_000 + 5_000 * self.messages as u64 + 2 * self.bytes as u64;
        environment.set_fuel(Some(fuel));
        let methods = self.methods;
        environment.set_unknown_method_callback(move |state, value, method, arguments| {
            values::check_method(state, value, method, arguments)?;
            methods(state, value, method, arguments)
        });
        let context = prepare(&mut environment);
        environment.add_function(CHECK, move |state: &State<'_, '_>, value: Value| {
            bounds.charge(state, &value).map(|()| value)
        });
        environment.add_function(CHECK_STORED, |value: Value| {
            values::check_stored(&value).map(|()| value)
        });
        let compiled = self.compile(bounds)?;
        let (mut text, blocks) = (String::new(), BTreeMap::new());
        let mut output = make_string_output(&mut text);
        eval(&environment, &compiled, context, &blocks, &mut output, AutoEscape::None)?;
        Ok(text)
    }

    /// The bounds on the text itself.
    fn check_source(&self) -> Result<(), Error> {
        if self.source.len() > SOURCE {
            return Err(too_much("bytes", self.source.len(), SOURCE));
        }
        let (mut tokens, mut expression, mut elifs) = (0, 0, 0);
        let mut repeats = Repeats::new();
        for token in tokenize(self.source, false, self.syntax.clone()) {
            let (token, _) = token?;
            tokens += 1;
            expression += 1;
            match token {
                Token::VariableStart | Token::BlockStart => expression = 0,
                Token::Ident("elif") => elifs += 1,
                _ => {}
            }
            for (what, found, most) in [
                ("tokens", tokens, TOKENS),
                ("tokens in one expression", expression, EXPRESSION),
                ("elif branches", elifs, ELIFS),
            ] {
                if found > most {
                    return Err(too_much(what, found, most));
                }
            }
            repeats.check(&token)?;
        }
        Ok(())
    }

    /// The template's instructions with checks behind what builds containers.
    fn compile(&self, bounds: Bounds) -> Result<Instructions<'_>, Error> {
        let tree = parse(self.source, "template", self.syntax.clone())?;
        let mut generator = CodeGenerator::new("template", self.source);
        generator.compile_stmt(&tree);
        let (plain, _) = generator.finish();
        let mut checked = Instructions::new("template", self.source);
        // Where each instruction has gone.
        let mut places = Vec::new();
        let mut attributes = BTreeSet::new();
        for index in 0.. {
            let Some(instruction) = plain.get(index) else { break };
            let line = plain.get_line(index).unwrap_or(1) as u16;
            let mut add = |instruction| checked.add_with_line(instruction, line);
            let check = |name| Instruction::CallFunction(name, Some(1));
            if let Instruction::SetAttr(name) = instruction {
                attributes.insert(*name);
                if attributes.len() > ATTRIBUTES {
                    return Err(too_much("names in namespaces", attributes.len(), ATTRIBUTES));
                }
                places.push(add(Instruction::Swap));
                add(check(CHECK_STORED));
                add(Instruction::Swap);
                add(instruction.clone());
                continue;
            }
            places.push(add(instruction.clone()));
            match instruction {
                Instruction::LoadConst(value) => drop(bounds.check(value)?),
                Instruction::BuildList(_)
                | Instruction::BuildMap(_)
                | Instruction::BuildTuple(_)
                | Instruction::Add
                | Instruction::Mul
                | Instruction::ApplyFilter(..)
                | Instruction::CallFunction(..)
                | Instruction::CallMethod(..)
                | Instruction::CallObject(_) => drop(add(check(CHECK))),
                _ => {}
            }
        }
        for place in &places {
            if let Some(target) = checked.get_mut(*place).and_then(target) {
                // Behind the last instruction: the end of the copy.
                let end = places.last().map_or(0, |last| last + 1);
                *target = places.get(*target as usize).copied().unwrap_or(end);
            }
        }
        Ok(checked)
    }
}

/// Where an instruction jumps to.
fn target<'i>(instruction: &'i mut Instruction<'_>) -> Option<&'i mut u32> {
    match instruction {
        Instruction::Iterate(target)
        | Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::BuildMacro(_, target, _) => Some(target),
        _ => None,
    }
}

/// Refuses `[…] * n` unless `n` is a small number that stands there: constants are computed before
/// anything can be counted, and what is repeated again and again never ends when it is compared.
/// Lists that are no constants are measured when they are repeated.
struct Repeats {
    /// The counts of this expression, multiplied.
    product: u64,
    /// Of every open bracket, whether it is a group (not a call, not an index), whether it has a
    /// list in it, and whether `*` stands before it.
    open: Vec<(bool, bool, bool)>,
    /// Was the last token `*`, the end of something with a list in it, the end of a value?
    after_star: bool,
    after_list: bool,
    after_value: bool,
    /// Was it `*` behind a list, or the count behind that?
    before_count: bool,
    after_count: bool,
}

impl Repeats {
    fn new() -> Self {
        Self {
            product: 1,
            open: Vec::new(),
            after_star: false,
            after_list: false,
            after_value: false,
            before_count: false,
            after_count: false,
        }
    }

    fn check(&mut self, token: &Token<'_>) -> Result<(), Error> {
        let refused = || {
            let reason = format!(
                "it repeats a list: only [...] * N, with numbers N that stand there and come to at \
                 most {REPEATS}, is computed"
            );
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        };
        let (mut after_star, mut after_list, mut after_value) = (false, false, false);
        let (mut before_count, mut after_count) = (false, false);
        match token {
            Token::Int(count) if self.before_count => {
                self.product = self.product.saturating_mul((*count).max(1));
                if self.product > REPEATS {
                    return refused();
                }
                (after_list, after_value, after_count) = (true, true, true);
            }
            _ if self.before_count => return refused(),
            // The count is another one: `[0] * 2 ** 30`.
            Token::Pow if self.after_count => return refused(),
            Token::VariableStart | Token::BlockStart => {
                self.open.clear();
                self.product = 1;
            }
            Token::BracketOpen | Token::BraceOpen | Token::ParenOpen => {
                let is_list = !matches!(token, Token::ParenOpen) && !self.after_value;
                self.open.push((!self.after_value, is_list, self.after_star));
            }
            Token::Comma => {
                if let Some((is_group, has_list, _)) = self.open.last_mut() {
                    *has_list |= *is_group;
                }
            }
            Token::BracketClose | Token::BraceClose | Token::ParenClose => {
                let (is_group, has_list, is_repeated) =
                    self.open.pop().unwrap_or((true, true, false));
                after_list = is_group && has_list;
                if after_list && is_repeated {
                    return refused();
                }
                if let Some((_, outer, _)) = self.open.last_mut() {
                    *outer |= after_list;
                }
                after_value = true;
            }
            Token::Mul if self.after_list => before_count = true,
            Token::Mul => after_star = true,
            Token::Ident(word) => {
                after_value = !matches!(*word, "in" | "and" | "or" | "not" | "if" | "else" | "is");
            }
            Token::Str(_) | Token::String(_) => after_value = true,
            _ => {}
        }
        (self.after_star, self.after_list, self.after_value) =
            (after_star, after_list, after_value);
        (self.before_count, self.after_count) = (before_count, after_count);
        Ok(())
    }
}

fn too_much(what: &str, found: usize, most: usize) -> Error {
    let reason =
        format!("it has more {what} ({found}) than a chat template needs (at most {most})");
    Error::new(ErrorKind::InvalidOperation, reason)
}
