//! What is typed to `chat`: lines with editing and history on a terminal, plain lines elsewhere.
//! And Ctrl-C: it stops a reply; where nothing is being written it clears the line, and pressed
//! twice on an empty one it ends the conversation.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::{
    Cmd, ConditionalEventHandler, DefaultEditor, Event, EventContext, EventHandler, KeyCode,
    KeyEvent, Modifiers, RepeatCount,
};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::Failure;
use crate::output::note;

/// The most bytes of a line.
const MOST: u64 = 1 << 20;
/// Values of TERM for which there is no line editing.
const DUMB: [&str; 3] = ["dumb", "cons25", "emacs"];
/// Lines that the history keeps.
const HISTORY: usize = 1000;
/// The status of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Ctrl-C, from the first call of [`Interrupt::new`] on.
#[derive(Debug)]
pub(crate) struct Interrupt {
    /// Set when it was pressed.
    pub(crate) pressed: Arc<AtomicBool>,
    /// Is there nothing to stop? Then it ends the program.
    idle: Arc<AtomicBool>,
}

impl Interrupt {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (pressed, idle) = (Arc::default(), Arc::default());
        flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&idle))?;
        flag::register(SIGINT, Arc::clone(&pressed))?;
        Ok(Self { pressed, idle })
    }
}

/// Something that was typed.
#[derive(Debug, PartialEq)]
pub(crate) enum Typed {
    /// A line, or several that were pasted.
    Text(String),
    /// A line that cannot be used, and why.
    Unusable(String),
    /// Nothing more will come.
    End,
}

/// Where lines come from.
pub(crate) enum Input {
    Terminal(Box<Terminal>),
    Plain,
}

/// A terminal with line editing.
pub(crate) struct Terminal {
    editor: DefaultEditor,
    history: Option<PathBuf>,
    /// Was the line empty when Ctrl-C was pressed last?
    was_empty: Arc<AtomicBool>,
    /// Has it just been pressed on an empty line?
    once: bool,
}

impl Input {
    /// A terminal if people sit there; its history is kept unless `without_history`.
    pub(crate) fn new(without_history: bool) -> Result<Self, Failure> {
        // Terminals that cannot move their cursor; there Ctrl-C is a signal, not a key.
        let is_plain = || {
            std::env::var("TERM")
                .is_ok_and(|term| DUMB.iter().any(|dumb| dumb.eq_ignore_ascii_case(&term)))
        };
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() || is_plain() {
            return Ok(Self::Plain);
        }
        let mut editor = DefaultEditor::new()?;
        editor.set_max_history_size(HISTORY)?;
        editor.set_history_ignore_space(true);
        let was_empty = Arc::<AtomicBool>::default();
        let watch = Watch(Arc::clone(&was_empty));
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(watch)));
        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(alt_enter, EventHandler::Simple(Cmd::Newline));
        let history = if without_history { None } else { history_file() };
        if let Some(path) = &history {
            // None yet, or one that cannot be read: the conversation does not depend on it.
            let _ = editor.load_history(path);
        }
        Ok(Self::Terminal(Box::new(Terminal { editor, history, was_empty, once: false })))
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// What the terminal or standard input says.
    pub(crate) fn read(&mut self, interrupt: &Interrupt) -> Result<Typed, Failure> {
        match self {
            Self::Terminal(terminal) => terminal.read(),
            Self::Plain => {
                if std::io::stdin().is_terminal() {
                    // A terminal that has gone away shows itself at the next read.
                    let mut err = std::io::stderr().lock();
                    let _ = err.write_all(b"> ").and_then(|()| err.flush());
                }
                interrupt.idle.store(true, Ordering::SeqCst);
                let line = read_line(&mut std::io::stdin().lock());
                interrupt.idle.store(false, Ordering::SeqCst);
                Ok(line?)
            }
        }
    }
}

impl Terminal {
    fn read(&mut self) -> Result<Typed, Failure> {
        loop {
            match self.editor.readline("> ") {
                Ok(line) => {
                    self.once = false;
                    self.remember(&line);
                    return Ok(Typed::Text(line));
                }
                Err(ReadlineError::Interrupted) => {
                    // A press that clears a line is not the first of two that end it.
                    let is_empty = self.was_empty.load(Ordering::Relaxed);
                    if is_empty && self.once {
                        return Ok(Typed::End);
                    }
                    if is_empty {
                        note("Ctrl-C again, or Ctrl-D, ends the conversation");
                    }
                    self.once = is_empty;
                }
                // A signal from elsewhere; the window's size is asked for again.
                Err(ReadlineError::Signal(_)) => {}
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(ReadlineError::Io(error))
                    if error.kind() == std::io::ErrorKind::InvalidData =>
                {
                    return Ok(Typed::Unusable("the line is not valid UTF-8".into()));
                }
                Err(error) => return Err(format!("the terminal: {error}").into()),
            }
        }
    }

    fn remember(&mut self, line: &str) {
        let Ok(true) = self.editor.add_history_entry(line) else { return };
        let Some(path) = &self.history else { return };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept =
            folder.map_err(ReadlineError::from).and_then(|()| self.editor.append_history(path));
        if let Err(error) = kept {
            note(format_args!("{}: the history is not kept: {error}", path.display()));
            self.history = None;
        }
    }
}

/// Notes whether the line was empty; Ctrl-C then does what it always does.
struct Watch(Arc<AtomicBool>);

impl ConditionalEventHandler for Watch {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        self.0.store(context.line().is_empty(), Ordering::Relaxed);
        None
    }
}

/// Where the history is kept: a private file in the user's folder for state.
fn history_file() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let state = from(if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_STATE_HOME" })
        .or_else(|| Some(home()?.join(".local/state")))?;
    Some(state.join("lowrank").join("chat_history"))
}

/// A line of at most [`MOST`] bytes; of a longer one the rest is passed over.
fn read_line(source: &mut impl BufRead) -> std::io::Result<Typed> {
    let mut line = Vec::new();
    if source.take(MOST + 1).read_until(b'\n', &mut line)? == 0 {
        return Ok(Typed::End);
    }
    if line.len() as u64 > MOST {
        while line.last() != Some(&b'\n') {
            line.clear();
            if source.take(MOST).read_until(b'\n', &mut line)? == 0 {
                break;
            }
        }
        return Ok(Typed::Unusable(format!("the line has more than {MOST} bytes")));
    }
    Ok(match String::from_utf8(line) {
        Ok(line) => Typed::Text(line),
        Err(_) => Typed::Unusable("the line is not valid UTF-8".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bounded_and_the_next_one_is_read_whole() {
        let long = "x".repeat(3 * MOST as usize);
        let text = format!("one\n{long}\ntwo\n\u{e9}");
        let mut source = std::io::BufReader::new(text.as_bytes());
        assert_eq!(read_line(&mut source).unwrap(), Typed::Text("one\n".into()));
        assert!(matches!(read_line(&mut source).unwrap(), Typed::Unusable(_)));
        assert_eq!(read_line(&mut source).unwrap(), Typed::Text("two\n".into()));
        assert_eq!(read_line(&mut source).unwrap(), Typed::Text("\u{e9}".into()));
        assert_eq!(read_line(&mut source).unwrap(), Typed::End);
    }
}
