//! The scheduler's thread: which request gets which sequence, and what each pass reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::super::writer::Writer;
use super::super::{ByNumber, End, ReplyError, choices};
use super::{Event, Job, Shared};
use crate::adapter::SharedAdapter;
use crate::error::{Error, Result};
use crate::runtime::{Sampler, Session};
use crate::text::Tokenizer;

/// A prompt's beginning is copied from a busy sequence if that saves at least so many tokens.
const WORTH_COPYING: usize = 16;

/// A prompt ends with at least so many tokens in one pass, whatever was read before: from so many
/// rows on, products no longer depend on how many there are, so that a reply does not depend on what
/// need not be read again.
const TOGETHER: usize = 3;

/// Adapters by identity, and their weights.
type Chosen = Vec<(Arc<SharedAdapter>, f32)>;

fn same(a: &Chosen, b: &Chosen) -> bool {
    let equal = |((a, x), (b, y)): (&(Arc<_>, f32), &(Arc<_>, f32))| Arc::ptr_eq(a, b) && x == y;
    a.len() == b.len() && a.iter().zip(b).all(equal)
}

/// A job with a sequence.
struct Running<'t> {
    job: Job,
    sampler: Sampler,
    writer: Writer<'t>,
    /// Tokens of the prompt that were read.
    read: usize,
}

/// A sequence.
#[derive(Default)]
struct Seat<'t> {
    running: Option<Running<'t>>,
    /// The adapters under which its tokens were read.
    chosen: Chosen,
    /// When its last job ended: of free ones, the oldest is given away first.
    freed: u64,
}

struct Batch<'b, 'w, 'm, 't> {
    session: &'b mut Session<'w, 'm>,
    tokenizer: &'t Tokenizer,
    seats: Vec<Seat<'t>>,
    waiting: VecDeque<Job>,
    shared: &'b Shared,
    /// Jobs that have ended.
    ended: u64,
    /// The sequence whose prompt is read first in the next pass.
    turn: usize,
}

/// Answers jobs until nobody can send more and all have ended.
pub(super) fn serve(
    session: &mut Session<'_, '_>,
    tokenizer: &Tokenizer,
    shared: &Shared,
    jobs: &Receiver<Job>,
) {
    let seats = (0..session.limits().batch).map(|_| Seat::default()).collect();
    let waiting = VecDeque::new();
    let mut batch = Batch { session, tokenizer, seats, waiting, shared, ended: 0, turn: 0 };
    loop {
        if batch.is_idle() {
            batch.publish();
            let Ok(job) = jobs.recv() else { return };
            batch.waiting.push_back(job);
        }
        batch.waiting.extend(jobs.try_iter());
        batch.forget();
        batch.admit();
        batch.publish();
        batch.pass();
    }
}

/// How many of so many tokens a pass reads that has room for `budget`: all, or as many as leave
/// [`TOGETHER`] for the last.
fn share(rest: usize, budget: usize) -> usize {
    if rest <= budget { rest } else { budget.min(rest.saturating_sub(TOGETHER)) }
}

impl<'t> Batch<'_, '_, '_, 't> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.seats.iter().all(|seat| seat.running.is_none())
    }

    fn publish(&self) {
        let running = self.seats.iter().filter(|seat| seat.running.is_some()).count();
        let cached = (0..self.seats.len())
            .filter(|&seat| self.seats[seat].running.is_some())
            .map(|seat| self.session.position(seat).unwrap_or(0))
            .sum();
        self.shared.running.store(running, Ordering::Relaxed);
        self.shared.cached.store(cached, Ordering::Relaxed);
    }

    /// Lets go of jobs that nobody waits for any more.
    fn forget(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|job| !job.listener.is_gone());
        let gone = before - self.waiting.len();
        self.shared.taken.fetch_sub(gone, Ordering::Relaxed);
        for seat in 0..self.seats.len() {
            let running = self.seats[seat].running.as_ref();
            if running.is_some_and(|running| running.job.listener.is_gone()) {
                self.free(seat);
            }
        }
    }

    /// Gives free sequences to jobs that wait.
    fn admit(&mut self) {
        while self.seats.iter().any(|seat| seat.running.is_none()) {
            let Some(mut job) = self.next() else { return };
            match self.seat(&job) {
                Ok((seat, known, sampler)) => {
                    let wishes = job.listener.hear(Event::Started { known });
                    let writer = Writer::new(self.tokenizer, job.tokens, job.stops.clone());
                    self.seats[seat].running = Some(Running { job, sampler, writer, read: known });
                    if wishes.is_break() {
                        self.free(seat);
                    }
                }
                Err(error) => {
                    self.shared.taken.fetch_sub(1, Ordering::Relaxed);
                    let _ = job.listener.hear(Event::Failed(error));
                }
            }
        }
    }

    /// The job that comes next: the oldest of those whose adapters have the fewest jobs running, so
    /// that one busy adapter does not keep out the others.
    fn next(&mut self) -> Option<Job> {
        let running = |job: &Job| {
            let of = |seat: &&Seat<'_>| seat.running.is_some() && same(&seat.chosen, &job.adapters);
            self.seats.iter().filter(of).count()
        };
        let next = self.waiting.iter().enumerate().min_by_key(|(_, job)| running(job))?.0;
        self.waiting.remove(next)
    }

    /// Makes a sequence ready for a job: its number, and how much of the prompt it has read.
    fn seat(&mut self, job: &Job) -> std::result::Result<(usize, usize, Sampler), ReplyError> {
        let sampler = Sampler::new(job.sampling)?;
        if job.prompt.is_empty() {
            return Err(ReplyError::EmptyPrompt);
        }
        // A pass refuses all of its rows for one that is wrong: others must not suffer for it.
        let context = self.session.limits().context;
        if job.prompt.len() > context {
            return Err(Error::ContextFull { asked: job.prompt.len(), context }.into());
        }
        let vocab = self.session.model().config().vocab as u32;
        if let Some(&token) = job.prompt.iter().find(|&&token| token >= vocab) {
            return Err(Error::Token { token, vocab }.into());
        }
        let known: Vec<usize> = (0..self.seats.len()).map(|seat| self.known(seat, job)).collect();
        let free = (0..self.seats.len()).filter(|&seat| self.seats[seat].running.is_none());
        let best = free.max_by_key(|&seat| (known[seat], u64::MAX - self.seats[seat].freed));
        let Some(seat) = best else { return Err(ReplyError::EmptyPrompt) };
        let other = (0..known.len()).max_by_key(|&seat| known[seat]).unwrap_or(seat);
        if known[other] >= known[seat] + WORTH_COPYING {
            self.session.fork(other, seat, known[other])?;
            self.seats[seat].chosen.clone_from(&job.adapters);
            return Ok((seat, known[other], sampler));
        }
        let chosen = self.select(seat, job);
        if chosen.is_err() {
            // Whatever the sequence holds now, it is nothing to build upon.
            self.session.cancel(seat)?;
            self.seats[seat].chosen.clear();
        }
        chosen?;
        self.session.rewind(seat, known[seat])?;
        Ok((seat, known[seat], sampler))
    }

    /// How many tokens at the beginning of the prompt a sequence has read under the job's adapters.
    /// The prompt's last tokens are always read: the logits after them are those of the reply.
    fn known(&self, seat: usize, job: &Job) -> usize {
        if !same(&self.seats[seat].chosen, &job.adapters) {
            return 0;
        }
        let held = self.session.tokens(seat).unwrap_or(&[]);
        let shared = held.iter().zip(&job.prompt).take_while(|(held, new)| held == new).count();
        shared.min(job.prompt.len().saturating_sub(TOGETHER))
    }

    fn select(&mut self, seat: usize, job: &Job) -> Result<()> {
        let set = ByNumber::new(self.session.model(), &job.adapters)?;
        let choices = choices(&job.adapters);
        if !same(&self.seats[seat].chosen, &job.adapters) {
            self.session.reset(seat)?;
        }
        self.session.select(seat, &set, &choices)?;
        self.seats[seat].chosen.clone_from(&job.adapters);
        Ok(())
    }

    /// Tokens of prompts that fit one pass of the session beside the replies that are written.
    fn budget(&self) -> usize {
        let chunk = self.session.limits().prefill_chunk;
        let is_written =
            |seat: &&Seat<'_>| seat.running.as_ref().is_some_and(|job| job.writer.last().is_some());
        let written = self.seats.iter().filter(is_written).count();
        (chunk.max(self.seats.len()) - written).clamp(TOGETHER, chunk.max(TOGETHER))
    }

    /// One pass for all: the token that each reply chose last, and of prompts as many tokens as one
    /// pass reads, the longest waiting first.
    fn pass(&mut self) {
        let (count, mut budget) = (self.seats.len(), self.budget());
        let mut entries: Vec<(usize, Vec<u32>)> = Vec::new();
        for seat in (self.turn..count).chain(0..self.turn) {
            let Some(running) = &mut self.seats[seat].running else { continue };
            if let Some(last) = running.writer.last() {
                entries.push((seat, vec![last]));
                continue;
            }
            let rest = &running.job.prompt[running.read..];
            let next = &rest[..share(rest.len(), budget)];
            if !next.is_empty() {
                budget -= next.len();
                running.read += next.len();
                entries.push((seat, next.to_vec()));
            }
        }
        self.turn = (self.turn + 1) % count;
        if entries.is_empty() {
            return;
        }
        let slices: Vec<(usize, &[u32])> =
            entries.iter().map(|(seat, tokens)| (*seat, tokens.as_slice())).collect();
        if let Err(error) = self.session.advance(&slices) {
            slices.iter().for_each(|&(seat, _)| self.end(seat, Event::Failed(error.into())));
            return;
        }
        for (seat, _) in slices {
            self.choose(seat);
        }
    }

    /// Chooses the next token of a reply, if its prompt is read.
    fn choose(&mut self, seat: usize) {
        let Some(running) = &mut self.seats[seat].running else { return };
        if running.read < running.job.prompt.len() {
            return;
        }
        let Running { job, sampler, writer, .. } = running;
        let mut end = writer.before();
        if end.is_none() {
            let written = self.session.sample(seat, sampler).map_err(ReplyError::from);
            let written = written.and_then(|token| Ok(writer.push(token)?));
            let written = match written {
                Ok(written) => written,
                Err(error) => return self.end(seat, Event::Failed(error)),
            };
            end = written.end;
            if !written.text.is_empty() && job.listener.hear(Event::Text(written.text)).is_break() {
                return self.free(seat);
            }
            if end.is_none() && self.session.room(seat) == Ok(0) {
                end = Some(End::Context);
            }
        }
        let Some(mut end) = end else { return };
        if !matches!(end, End::Stop(_)) {
            let (rest, stop) = writer.finish();
            end = stop.map_or(end, End::Stop);
            if !rest.is_empty() && job.listener.hear(Event::Text(rest)).is_break() {
                return self.free(seat);
            }
        }
        let tokens = writer.len();
        self.end(seat, Event::Ended { end, tokens });
    }

    /// Tells a job its last event, when its place is free. The sequence keeps what it has read for
    /// who asks next.
    fn end(&mut self, seat: usize, event: Event) {
        let running = self.seats[seat].running.take();
        self.free(seat);
        if let Some(mut running) = running {
            let _ = running.job.listener.hear(event);
        }
    }

    fn free(&mut self, seat: usize) {
        self.ended += 1;
        self.seats[seat].running = None;
        self.seats[seat].freed = self.ended;
        self.shared.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
