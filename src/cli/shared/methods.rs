//! The training methods as values of an option, with a line for each in `--help`, and the options
//! that single methods have, as the library lists them.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use lowrank::train::{Method, MethodOption, Options, TrainError};

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

/// What was given for options of single methods: name and text.
#[derive(Debug, Default)]
pub(crate) struct MethodOptions(Vec<(&'static str, String)>);

impl MethodOptions {
    /// Puts them into `options`.
    pub(crate) fn apply(&self, options: &mut Options) -> Result<(), TrainError> {
        for option in MethodOption::own() {
            let given = self.0.iter().find(|(name, _)| *name == option.name);
            given.map_or(Ok(()), |(_, text)| option.set(options, text))?;
        }
        Ok(())
    }
}

impl Args for MethodOptions {
    fn augment_args(command: Command) -> Command {
        let argument = |option: &'static MethodOption| {
            let argument = Arg::new(option.name).long(option.name).help(option.help);
            let argument = argument.help_heading("Method");
            if option.value.is_empty() {
                return argument.action(ArgAction::SetTrue);
            }
            let check = |text: &str| {
                let set = option.set(&mut Options::new(Method::Lora), text);
                set.map(|()| text.to_owned())
            };
            argument.value_name(option.value).default_value(option.default()).value_parser(check)
        };
        command.args(MethodOption::own().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for MethodOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |option: &'static MethodOption| {
            let name = option.name;
            let text = match option.value.is_empty() {
                true => matches.get_flag(name).to_string(),
                false => matches.get_one::<String>(name)?.clone(),
            };
            Some((name, text))
        };
        Ok(Self(MethodOption::own().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
