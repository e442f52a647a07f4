//! `lowrank completions`: the script with which a shell completes commands and options.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Failure;
use crate::output::of_stdout;

const EXAMPLES: &str = "Examples:
  lowrank completions fish > ~/.config/fish/completions/lowrank.fish
  lowrank completions bash > lowrank.bash

bash reads it with `source lowrank.bash`, or from
~/.local/share/bash-completion/completions/lowrank at its start.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Made as a whole first: the generator panics where it cannot write.
    let mut script = Vec::new();
    let mut command = crate::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "lowrank", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(of_stdout)?;
    Ok(())
}
