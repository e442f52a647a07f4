//! `--template-arg NAME=VALUE`: variables for the chat template, on every command that renders one.

use clap::Args;
use lowrank::text::{TemplateVariables, Tokenizer};

use crate::Failure;

#[derive(Debug, Args)]
pub(crate) struct TemplateOptions {
    /// A variable for the chat template, such as enable_thinking=false; the value is JSON, or else
    /// text; may be repeated
    #[arg(long = "template-arg", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
}

impl TemplateOptions {
    /// Are there any?
    pub(crate) fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }

    /// `tokenizer` with these variables; refuses them where there is no template.
    pub(crate) fn apply(&self, tokenizer: Tokenizer) -> Result<Tokenizer, Failure> {
        if self.is_empty() {
            return Ok(tokenizer);
        }
        if !tokenizer.has_template() {
            return Err("--template-arg has no effect: the base has no chat template".into());
        }
        let mut variables = TemplateVariables::new();
        for argument in &self.arguments {
            let Some((name, value)) = argument.split_once('=') else {
                let reason = format!("--template-arg {argument}: NAME=VALUE was expected");
                return Err(reason.into());
            };
            variables.set(name, value).map_err(|error| format!("--template-arg: {error}"))?;
        }
        Ok(tokenizer.with_template_variables(variables))
    }

    /// [`apply`](Self::apply) to the tokenizer of a base that may have none.
    pub(crate) fn apply_to(
        &self,
        tokenizer: Option<Tokenizer>,
    ) -> Result<Option<Tokenizer>, Failure> {
        match tokenizer {
            Some(tokenizer) => self.apply(tokenizer).map(Some),
            None if self.is_empty() => Ok(None),
            None => Err("--template-arg has no effect: the base has no tokenizer".into()),
        }
    }

    /// Refuses variables after data was read that has no conversation.
    pub(crate) fn check_used(&self, tokenizer: Option<&Tokenizer>) -> Result<(), Failure> {
        if !self.is_empty() && !tokenizer.is_some_and(Tokenizer::has_rendered) {
            return Err("--template-arg has no effect: the data has no conversations".into());
        }
        Ok(())
    }
}
