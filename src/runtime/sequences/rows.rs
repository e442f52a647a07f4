//! The rows of a pass: what is asked for is checked, laid out as tokens, positions and segments, and
//! run as many rows at a time as there is memory for.

use super::{Sequence, Sequences};
use crate::error::{Error, Result};
use crate::nn::Segment;
use crate::runtime::runner::Runner;

/// Runs of segments whose sequences are neighbours, as lengths: their logits are neighbours too.
fn neighbours(segments: &[Segment]) -> usize {
    let follow = |pair: &[Segment]| pair[1].sequence == pair[0].sequence + 1;
    1 + segments.windows(2).take_while(|pair| follow(pair)).count()
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<R: Runner> Sequences<'_, '_, R> {
    pub(in crate::runtime) fn check_tokens(&self, sequence: usize, tokens: &[u32]) -> Result<()> {
        let (position, context) = (self.sequence(sequence)?.position, self.context);
        if tokens.is_empty() {
            return Err(Error::Length { have: 0, need: 1 });
        }
        let vocab = self.runner.vocab();
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Token { token, vocab: vocab as u32 });
        }
        if tokens.len() > context - position {
            return Err(Error::ContextFull { asked: position + tokens.len(), context });
        }
        Ok(())
    }

    /// Checks all entries of a call, each sequence at most once.
    pub(super) fn check<'t>(
        &mut self,
        count: usize,
        entry: &dyn Fn(usize) -> (usize, &'t [u32]),
    ) -> Result<()> {
        self.runner.alive()?;
        if count == 0 || count > self.batch {
            return Err(Error::Length { have: count, need: self.batch });
        }
        let mut result = Ok(());
        for i in 0..count {
            let (sequence, tokens) = entry(i);
            result = self.check_tokens(sequence, tokens);
            if result.is_ok() && core::mem::replace(&mut self.sequences[sequence].is_named, true) {
                result = Err(Error::DuplicateSequence { sequence });
            }
            if result.is_err() {
                break;
            }
        }
        self.sequences.iter_mut().for_each(|sequence| sequence.is_named = false);
        result
    }

    /// `count` entries, each a sequence and its tokens, in as few passes as their rows fit into.
    pub(super) fn run_all<'t>(
        &mut self,
        count: usize,
        entry: &dyn Fn(usize) -> (usize, &'t [u32]),
    ) -> Result<()> {
        self.check(count, entry)?;
        // The entry that comes next, and how many of its tokens were run.
        let (mut next, mut done) = (0, 0);
        while next < count {
            let (mut rows, mut segments) = (0, 0);
            while next < count && rows < self.segments.len() {
                let (sequence, tokens) = entry(next);
                let tokens = &tokens[done..];
                let fit = tokens.len().min(self.segments.len() - rows);
                self.append(rows, sequence, &tokens[..fit]);
                self.segments[segments] = Segment { first: rows, rows: fit, sequence };
                (rows, segments) = (rows + fit, segments + 1);
                (next, done) = if fit == tokens.len() { (next + 1, 0) } else { (next, done + fit) };
            }
            self.run(rows, segments);
            self.compute_logits(segments - usize::from(done > 0));
        }
        self.runner.alive()
    }

    /// Reads a chunk of one sequence, no longer than a pass.
    pub(super) fn feed(&mut self, sequence: usize, chunk: &[u32]) {
        self.append(0, sequence, chunk);
        self.segments[0] = Segment { first: 0, rows: chunk.len(), sequence };
        self.run(chunk.len(), 1);
    }

    /// Reads checked tokens of one sequence chunk by chunk, without logits; returns the last one's
    /// row of the last pass.
    pub(in crate::runtime) fn feed_all(&mut self, sequence: usize, tokens: &[u32]) -> usize {
        let mut last_row = 0;
        for chunk in tokens.chunks(self.segments.len()) {
            self.feed(sequence, chunk);
            last_row = chunk.len() - 1;
        }
        last_row
    }

    /// Reads one token of each of several sequences in one pass, without logits; the rows of each.
    #[cfg(feature = "cuda")]
    pub(in crate::runtime) fn feed_each(
        &mut self,
        tokens: &[(usize, u32)],
    ) -> Result<Vec<Segment>> {
        self.check(tokens.len(), &|i| (tokens[i].0, core::slice::from_ref(&tokens[i].1)))?;
        for (row, &(sequence, token)) in tokens.iter().enumerate() {
            self.append(row, sequence, &[token]);
            self.segments[row] = Segment { first: row, rows: 1, sequence };
        }
        self.run(tokens.len(), tokens.len());
        Ok(self.segments[..tokens.len()].to_vec())
    }

    /// Makes `tokens` the next of `sequence` and rows `row ..` of the pass.
    pub(super) fn append(&mut self, row: usize, sequence: usize, tokens: &[u32]) {
        let first = self.sequences[sequence].position;
        self.tokens[row..][..tokens.len()].copy_from_slice(tokens);
        for (position, i) in self.positions[row..][..tokens.len()].iter_mut().zip(first..) {
            *position = i;
        }
        self.sequences[sequence] =
            Sequence { position: first.saturating_add(tokens.len()), ..Sequence::EMPTY };
        if !self.history.is_empty() {
            let end = self.kept(sequence).end;
            self.history[end - tokens.len()..end].copy_from_slice(tokens);
        }
    }

    pub(super) fn run(&mut self, rows: usize, segments: usize) {
        self.runner.run(
            &self.tokens[..rows],
            &self.positions[..rows],
            &self.segments[..segments],
            self.selection.handles(),
        );
    }

    /// The logits after the last row of each of the pass's first `segments` segments.
    pub(super) fn compute_logits(&mut self, segments: usize) {
        let outputs = self.runner.outputs();
        let mut segments = &mut self.segments[..segments];
        for segment in &mut *segments {
            let first = segment.first + segment.rows - 1;
            *segment = Segment { first, rows: 1, ..*segment };
            let sequence = &mut self.sequences[segment.sequence];
            (sequence.row, sequence.has_logits) = (segment.sequence, true);
        }
        while !segments.is_empty() {
            let (some, rest) = segments.split_at_mut(neighbours(segments));
            let logits = &mut self.logits[some[0].sequence * outputs..][..some.len() * outputs];
            self.runner.logits(some, self.selection.handles(), logits);
            segments = rest;
        }
    }
}
