//! Which examples make up each batch. Not what is in them.

use crate::random;

/// Batches whose lengths are sorted together; more sorts better and mixes less.
const SORTED_TOGETHER: usize = 50;

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// After this many examples.
    Examples(usize),
    /// Before this many tokens are exceeded; one example always fits.
    Tokens(usize),
}

/// The batches of an epoch: shuffled, or of similar lengths in shuffled order.
pub(super) fn epoch(
    lengths: &[u32],
    room: Room,
    seed: u64,
    epoch: u64,
    sort_by_length: bool,
) -> Vec<Vec<u32>> {
    let count = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
    let mut order = random::permutation(seed, epoch, count);
    if !sort_by_length {
        return cut(&order, lengths, room);
    }
    let mut batches = Vec::new();
    for part in order.chunks_mut(SORTED_TOGETHER.saturating_mul(typical(lengths, room))) {
        // Stable: equal lengths keep their shuffled order.
        part.sort_by_key(|&example| std::cmp::Reverse(lengths[example as usize]));
        batches.append(&mut cut(part, lengths, room));
    }
    random::shuffle(seed, 1, epoch, &mut batches);
    batches
}

/// `order` cut into batches.
pub(super) fn cut(order: &[u32], lengths: &[u32], room: Room) -> Vec<Vec<u32>> {
    let (mut batches, mut batch, mut tokens) = (Vec::new(), Vec::new(), 0usize);
    for &example in order {
        let length = lengths[example as usize] as usize;
        let is_full = match room {
            Room::Examples(most) => batch.len() >= most.max(1),
            Room::Tokens(most) => !batch.is_empty() && tokens.saturating_add(length) > most,
        };
        if is_full {
            batches.push(std::mem::take(&mut batch));
            tokens = 0;
        }
        batch.push(example);
        tokens = tokens.saturating_add(length);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Examples in a batch of mean lengths.
fn typical(lengths: &[u32], room: Room) -> usize {
    match room {
        Room::Examples(most) => most.max(1),
        Room::Tokens(most) => {
            let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
            let examples = most as u128 * lengths.len() as u128 / u128::from(tokens.max(1));
            usize::try_from(examples).unwrap_or(usize::MAX).max(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_example_once_in_batches_that_fit(
            lengths in prop::collection::vec(1u32..40, 0..400), most in 0usize..60, by_tokens: bool, sort: bool, seed: u64
        ) {
            let room = if by_tokens { Room::Tokens(most) } else { Room::Examples(most) };
            let batches = epoch(&lengths, room, seed, 3, sort);
            let mut seen: Vec<u32> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
            for batch in &batches {
                let tokens: u32 = batch.iter().map(|&example| lengths[example as usize]).sum();
                let fits = if by_tokens { tokens as usize <= most || batch.len() == 1 } else { batch.len() <= most.max(1) };
                prop_assert!(fits && !batch.is_empty(), "{batch:?}");
            }
            if !by_tokens {
                prop_assert_eq!(batches.len(), lengths.len().div_ceil(most.max(1)));
            }
            prop_assert_eq!(&batches, &epoch(&lengths, room, seed, 3, sort));
        }
    }

    #[test]
    fn sorted_batches_hold_similar_lengths_and_still_change_between_epochs() {
        let lengths: Vec<u32> = (0..4000).map(|i| 1 + (i * 7919) % 100).collect();
        let spread = |batches: &[Vec<u32>]| -> u32 {
            let spread = |batch: &Vec<u32>| {
                let lengths = batch.iter().map(|&example| lengths[example as usize]);
                lengths.clone().max().unwrap() - lengths.min().unwrap()
            };
            batches.iter().map(spread).sum::<u32>() / batches.len() as u32
        };
        let (sorted, mixed) = (
            epoch(&lengths, Room::Examples(16), 1, 0, true),
            epoch(&lengths, Room::Examples(16), 1, 0, false),
        );
        assert!(
            spread(&sorted) <= 4 && spread(&mixed) > 60,
            "{} {}",
            spread(&sorted),
            spread(&mixed)
        );
        assert_ne!(sorted, epoch(&lengths, Room::Examples(16), 1, 1, true));
        let mean = |batch: &Vec<u32>| {
            batch.iter().map(|&example| lengths[example as usize]).sum::<u32>() / 16
        };
        assert!(
            !sorted.iter().map(mean).is_sorted_by(|a, b| a >= b),
            "the batches themselves are shuffled"
        );
    }

    #[test]
    fn packing_fills_batches() {
        let lengths: Vec<u32> = (0..4000).map(|i| 1 + (i * 7919) % 100).collect();
        for sort in [false, true] {
            let batches = epoch(&lengths, Room::Tokens(1024), 1, 0, sort);
            let least = lengths.iter().sum::<u32>().div_ceil(1024) as usize;
            assert!(batches.len() <= least * 11 / 10, "{} of at least {least}", batches.len());
        }
    }
}
