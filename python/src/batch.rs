//! Rows side by side, each under adapters of its own: the library's scheduler, with all rows handed
//! in at once and waited for.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use lowrank::adapter::Bytes;
use lowrank::engine::{Event, Job, Scheduler};
use lowrank::exec::Executor;
use lowrank::model::llama::Llama;
use lowrank::runtime::Limits;
use lowrank::text::Tokenizer;

use crate::ask::{How, Prompt, PyReply};
use crate::error::{Fault, Outcome};
use crate::machine::Options;
use crate::watch::Watch;

/// The most rows that wait.
const WAITING: usize = 1 << 20;

/// How long one waits for an event between two looks for signals.
const WAIT: Duration = Duration::from_millis(20);

/// The scheduler of a session; it is started by the first batch.
#[derive(Default)]
pub(crate) struct Batches(Option<Started>);

struct Started {
    scheduler: Scheduler,
    /// Adapters of a row, and the sum of their ranks.
    room: (usize, usize),
}

/// A row: what is asked, and as much of its reply as there is.
struct Row {
    prompt: Vec<u32>,
    how: How,
    text: String,
    reply: Option<PyReply>,
}

impl Batches {
    /// The replies of all rows, in their order.
    pub(crate) fn run(
        &mut self,
        base: Bytes,
        executor: Arc<dyn Executor + Send>,
        options: &Options,
        rows: Vec<(Prompt, How)>,
        watch: &mut Watch,
    ) -> Outcome<Vec<PyReply>> {
        let room = rows.iter().map(|(_, how)| how.room());
        let room = room.fold((1, 16), |most, room| (most.0.max(room.0), most.1.max(room.1)));
        let scheduler = self.scheduler(base, executor, options, room)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let read = |(row, (prompt, how))| {
            watch.check()?;
            read(scheduler.tokenizer(), options.context, prompt, how)
                .map_err(|fault: Fault| fault.in_row(row))
        };
        let mut rows = rows.into_iter().enumerate().map(read).collect::<Outcome<Vec<_>>>()?;
        let run = serve(scheduler, &mut rows, &is_over, watch);
        // Whatever still runs ends with its next token.
        is_over.store(true, Ordering::Relaxed);
        run?;
        Ok(rows.into_iter().filter_map(|row| row.reply).collect())
    }

    /// A scheduler with this room: the one that there is, or a new one.
    fn scheduler(
        &mut self,
        base: Bytes,
        executor: Arc<dyn Executor + Send>,
        options: &Options,
        room: (usize, usize),
    ) -> Outcome<&Scheduler> {
        let has_room = |started: &Started| started.room.0 >= room.0 && started.room.1 >= room.1;
        let started = match self.0.take().filter(has_room) {
            Some(started) => started,
            None => {
                let limits = |model: &Llama<'_>, executor: &dyn Executor| Limits {
                    batch: options.batch,
                    draft: 0,
                    ..options.limits(model, executor, room)
                };
                let scheduler = Scheduler::start(base, executor, WAITING, limits)?;
                Started { scheduler, room }
            }
        };
        Ok(&self.0.insert(started).scheduler)
    }
}

/// A row, if its prompt fits.
fn read(tokenizer: &Tokenizer, context: usize, prompt: Prompt, how: How) -> Outcome<Row> {
    let prompt = prompt.encode(tokenizer, &how.variables)?;
    if prompt.len() > context {
        return Err(Fault::input(format!(
            "the prompt has {} tokens, the session has room for {context} \
             (Session(base, context=…))",
            prompt.len()
        )));
    }
    Ok(Row { prompt, how, text: String::new(), reply: None })
}

/// Hands the rows in, some more than run at a time, and waits for their replies.
fn serve(
    scheduler: &Scheduler,
    rows: &mut [Row],
    is_over: &Arc<AtomicBool>,
    watch: &mut Watch,
) -> Outcome<()> {
    let (sender, events) = mpsc::channel();
    // Let go of with the last row: then events end when the thread that computes does.
    let mut sender = Some(sender);
    let (most, mut submitted, mut ended) = (2 * scheduler.limits().batch, 0, 0);
    while ended < rows.len() {
        while let Some(told) = sender.clone().filter(|_| submitted - ended < most) {
            scheduler.submit(job(submitted, &rows[submitted], told, is_over))?;
            submitted += 1;
            sender = sender.filter(|_| submitted < rows.len());
        }
        watch.check()?;
        let (number, event) = match events.recv_timeout(WAIT) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Fault::busy("the thread that computes has ended: open a session"));
            }
        };
        let row = &mut rows[number];
        match event {
            Event::Text(piece) => row.text.push_str(&piece),
            Event::Ended { end, tokens } => {
                let text = std::mem::take(&mut row.text);
                row.reply = Some(PyReply::counted(text, tokens, end, row.prompt.len(), &row.how));
                ended += 1;
            }
            Event::Failed(error) => return Err(Fault::from(error).in_row(number)),
            _ => {}
        }
    }
    Ok(())
}

/// The job of row `number`, whose events go to `sender` until it is all over.
fn job(number: usize, row: &Row, sender: Sender<(usize, Event)>, is_over: &Arc<AtomicBool>) -> Job {
    let (how, is_over) = (row.how.clone(), Arc::clone(is_over));
    let adapters = how.adapters.iter();
    Job {
        prompt: row.prompt.clone(),
        adapters: adapters.map(|(held, weight)| (Arc::clone(&held.shared), *weight)).collect(),
        tokens: how.tokens,
        stops: how.stops,
        sampling: how.sampling,
        listener: Box::new(move |event: Event| {
            let is_told = sender.send((number, event)).is_ok();
            match is_told && !is_over.load(Ordering::Relaxed) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        }),
    }
}
