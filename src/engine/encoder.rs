//! Vectors and labels of texts for many callers: one thread owns an encoder and packs the texts of
//! whoever asks, each under its own adapters, into shared passes.
//!
//! Texts of different requests take turns, so that a long list does not keep out a short one. What
//! a request gets does not depend on who its neighbours are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::likelihood::probabilities;
use super::{Busy, ByNumber, ReplyError, choices};
use crate::adapter::{Bytes, SharedAdapter};
use crate::archive::Fingerprint;
use crate::error::{Error, Result};
use crate::exec::Executor;
use crate::model::bert::Bert;
use crate::runtime::{Encoder, EncoderLimits, Memory, encoder_need};
use crate::text::Tokenizer;

/// What is asked about texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wish {
    /// Their embeddings, `[dim]`: pooled and normalized as the base says.
    Embeddings,
    /// The probability of each label, `[labels]`, of the classifier that one of the adapters
    /// brings.
    Labels,
}

/// Texts of one request, and who is told what comes of them.
pub struct TextJob {
    /// The tokens of each text, special ones included.
    pub texts: Vec<Vec<u32>>,
    /// Adapters with their weights; their contributions add up.
    pub adapters: Vec<(Arc<SharedAdapter>, f32)>,
    /// What is asked about them.
    pub wish: Wish,
    /// Who is told.
    pub listener: Box<dyn TextListener>,
}

impl fmt::Debug for TextJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextJob").field("texts", &self.texts).finish_non_exhaustive()
    }
}

/// A row of numbers for each text, or why there are none.
pub type Answer = std::result::Result<Vec<Vec<f32>>, ReplyError>;

/// Is told what comes of a job, on the scheduler's thread: it must not wait. A closure that takes an
/// [`Answer`] is one.
pub trait TextListener: Send {
    /// Hears the answer.
    fn hear(self: Box<Self>, answer: Answer);

    /// Does nobody wait for this job any more? It ends then, and nothing is told.
    fn is_gone(&self) -> bool {
        false
    }
}

impl<F: FnOnce(Answer) + Send> TextListener for F {
    fn hear(self: Box<Self>, answer: Answer) {
        self(answer);
    }
}

/// Answers many requests about texts at once; see the module. Dropping it ends what was taken
/// first.
pub struct EncoderScheduler {
    jobs: Mutex<Option<Sender<TextJob>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Jobs that were taken and have not ended.
    taken: Arc<AtomicUsize>,
    tokenizer: Arc<Tokenizer>,
    fingerprint: Fingerprint,
    limits: EncoderLimits,
    most: usize,
}

impl fmt::Debug for EncoderScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncoderScheduler")
            .field("limits", &self.limits)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl EncoderScheduler {
    /// Starts the thread that answers. At most `most` jobs are taken at a time; `limits` says how
    /// many texts share a pass and how long they may be.
    ///
    /// # Errors
    /// [`ReplyError::Text`] if the base has no tokenizer; [`ReplyError::Session`] as
    /// [`Bert::open`], [`Memory::try_new`] and [`Encoder::new`].
    pub fn start(
        base: impl Into<Bytes>,
        executor: Arc<dyn Executor + Send>,
        most: usize,
        limits: impl FnOnce(&Bert<'_>, &dyn Executor) -> EncoderLimits,
    ) -> std::result::Result<Self, ReplyError> {
        let base = base.into();
        let model = Bert::open(base.get())?;
        let tokenizer = Arc::new(Tokenizer::for_encoder(&model)?);
        let fingerprint = model.fingerprint();
        let limits = limits(&model, executor.as_ref());
        limits.check(model.config())?;
        let memory = Memory::try_new(encoder_need(model.config(), &limits))?;
        let (sender, jobs) = mpsc::channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let thread = {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || {
                let mut memory = memory;
                // The same bytes were opened, and the same limits checked, on the caller's thread.
                let encoder = Bert::open(base.get()).and_then(|model| {
                    Encoder::new(model, &limits, memory.as_mut(), executor.as_ref())
                });
                if let Ok(encoder) = encoder {
                    Passes::new(encoder, &taken).serve(&jobs);
                }
            })
        };
        Ok(Self {
            jobs: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            taken,
            tokenizer,
            fingerprint,
            limits,
            most,
        })
    }

    /// Takes a job. What is wrong with it is told its listener.
    ///
    /// # Errors
    /// [`Busy`]; the job is dropped then.
    pub fn submit(&self, job: TextJob) -> std::result::Result<(), Busy> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = jobs.as_ref() else { return Err(Busy::Ending) };
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        if taken >= self.most {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Busy::Full { waiting: taken });
        }
        sender.send(job).map_err(|_| Busy::Ending)
    }

    /// Jobs that were taken and have not ended.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The base's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The base's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What the encoder was made for.
    pub fn limits(&self) -> &EncoderLimits {
        &self.limits
    }

    /// Takes no more jobs, and returns when all that were taken have ended.
    pub fn finish(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was printed; its jobs' listeners are dropped, which they notice.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for EncoderScheduler {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A job, and what is known of it.
struct Open {
    job: TextJob,
    rows: Vec<Vec<f32>>,
}

impl Open {
    /// The texts that were not read.
    fn rest(&self) -> &[Vec<u32>] {
        &self.job.texts[self.rows.len()..]
    }
}

/// The scheduler's thread.
struct Passes<'s, 'w, 'm> {
    encoder: Encoder<'w, 'm>,
    taken: &'s AtomicUsize,
    open: VecDeque<Open>,
}

impl<'s, 'w, 'm> Passes<'s, 'w, 'm> {
    fn new(encoder: Encoder<'w, 'm>, taken: &'s AtomicUsize) -> Self {
        Self { encoder, taken, open: VecDeque::new() }
    }

    /// Answers jobs until nobody can send more and all have ended.
    fn serve(mut self, jobs: &Receiver<TextJob>) {
        loop {
            if self.open.is_empty() {
                let Ok(job) = jobs.recv() else { return };
                self.take(job);
            }
            jobs.try_iter().for_each(|job| self.take(job));
            let before = self.open.len();
            self.open.retain(|open| !open.job.listener.is_gone());
            self.taken.fetch_sub(before - self.open.len(), Ordering::Relaxed);
            self.pass();
            // Who was first in this pass is last in the next.
            if !self.open.is_empty() {
                self.open.rotate_left(1);
            }
        }
    }

    /// Takes a job that a pass will not refuse: a pass refuses all of its texts for one.
    fn take(&mut self, job: TextJob) {
        let open = Open { rows: Vec::with_capacity(job.texts.len()), job };
        match self.check(&open.job) {
            Ok(()) if open.job.texts.is_empty() => self.end(open, None),
            Ok(()) => self.open.push_back(open),
            Err(error) => self.end(open, Some(error)),
        }
    }

    fn check(&mut self, job: &TextJob) -> Result<()> {
        let EncoderLimits { context, tokens, .. } = *self.encoder.limits();
        let context = context.min(tokens);
        let vocab = self.encoder.model().config().vocab as u32;
        for text in &job.texts {
            match text.len() {
                0 => return Err(Error::Length { have: 0, need: 1 }),
                asked if asked > context => return Err(Error::ContextFull { asked, context }),
                _ => {}
            }
            if let Some(&token) = text.iter().find(|&&token| token >= vocab) {
                return Err(Error::Token { token, vocab });
            }
        }
        select(&mut self.encoder, 0, job)?;
        if job.wish == Wish::Labels { self.encoder.classifier(0).map(drop) } else { Ok(()) }
    }

    /// The texts of a pass by the numbers of their jobs: one of each job in turn, as many as fit.
    fn chosen(&self) -> Vec<usize> {
        let EncoderLimits { batch, tokens, .. } = *self.encoder.limits();
        let (mut chosen, mut room) = (Vec::new(), tokens);
        for turn in 0.. {
            let before = chosen.len();
            for (number, open) in self.open.iter().enumerate() {
                let Some(text) = open.rest().get(turn) else { continue };
                if chosen.len() == batch || text.len() > room {
                    return chosen;
                }
                room -= text.len();
                chosen.push(number);
            }
            if chosen.len() == before {
                break;
            }
        }
        chosen
    }

    /// Reads some texts, and ends the jobs whose last ones they were.
    fn pass(&mut self) {
        let chosen = self.chosen();
        let mut failed: Vec<Option<Error>> = self.open.iter().map(|_| None).collect();
        if let Err(error) = self.read(&chosen, &mut failed) {
            chosen.iter().for_each(|&number| failed[number] = Some(error));
        }
        for (open, error) in std::mem::take(&mut self.open).into_iter().zip(failed) {
            if error.is_some() || open.rest().is_empty() {
                self.end(open, error);
            } else {
                self.open.push_back(open);
            }
        }
    }

    fn read(&mut self, chosen: &[usize], failed: &mut [Option<Error>]) -> Result<()> {
        for (sequence, &number) in chosen.iter().enumerate() {
            select(&mut self.encoder, sequence, &self.open[number].job)?;
        }
        let mut turns = vec![0; self.open.len()];
        let texts = chosen.iter().map(|&number| {
            turns[number] += 1;
            self.open[number].rest()[turns[number] - 1].as_slice()
        });
        let texts: Vec<&[u32]> = texts.collect();
        if texts.is_empty() {
            return Ok(());
        }
        self.encoder.encode(&texts)?;
        for (sequence, &number) in chosen.iter().enumerate() {
            match self.row(sequence, self.open[number].job.wish) {
                Ok(row) => self.open[number].rows.push(row),
                Err(error) => failed[number] = Some(error),
            }
        }
        Ok(())
    }

    /// What is asked about a text of the last pass.
    fn row(&mut self, sequence: usize, wish: Wish) -> Result<Vec<f32>> {
        let row = match wish {
            Wish::Embeddings => self.encoder.embedding(sequence)?.to_vec(),
            Wish::Labels => {
                let mut logits = vec![0.0; self.encoder.classifier(sequence)?.len()];
                self.encoder.classify(sequence, &mut logits)?;
                probabilities(&logits)
            }
        };
        match row.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(Error::BadLogits { index }),
            None => Ok(row),
        }
    }

    fn end(&self, open: Open, error: Option<Error>) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        let answer = error.map_or(Ok(open.rows), |error| Err(error.into()));
        open.job.listener.hear(answer);
    }
}

/// Chooses a job's adapters for a sequence.
fn select(encoder: &mut Encoder<'_, '_>, sequence: usize, job: &TextJob) -> Result<()> {
    let set = ByNumber::new(encoder.model(), &job.adapters)?;
    encoder.select(sequence, &set, &choices(&job.adapters))
}
