//! The training methods as values of an option: `--help` has a line for each.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};
use lowrank::train::Method;

/// Reads the name of a method.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MethodParser;

impl TypedValueParser for MethodParser {
    type Value = Method;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Method, Error> {
        // The library's own sentence for what is no method.
        let parser = StringValueParser::new().try_map(|name| name.parse::<Method>());
        parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let value = |method: Method| PossibleValue::new(method.name()).help(method.summary());
        Some(Box::new(Method::ALL.into_iter().map(value)))
    }
}
