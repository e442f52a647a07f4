//! A buffer in which every worker shows the others what it has made, without waiting for anyone.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};

use super::workers::Share;

/// Workers that can show what they have made; more only look.
const SHOWING: usize = 16;

/// Has a worker shown its part?
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub(crate) struct Flag(AtomicBool);

/// A flag for every worker that can show a part.
pub(crate) type Flags = [Flag; SHOWING];

/// One part of a buffer per worker, which it writes once and all others can read from then on.
pub(crate) struct Exchange<'a> {
    data: *mut f32,
    parts: usize,
    width: usize,
    flags: &'a Flags,
    buffer: PhantomData<&'a mut [f32]>,
}

impl<'a> Exchange<'a> {
    /// Flags for [`new`](Self::new).
    pub(crate) const fn flags() -> Flags {
        [const { Flag(AtomicBool::new(false)) }; SHOWING]
    }

    /// Parts of `width` numbers.
    pub(crate) fn new(buffer: &'a mut [f32], width: usize, flags: &'a mut Flags) -> Self {
        *flags = Self::flags();
        let parts = buffer.len().checked_div(width).unwrap_or(0).min(SHOWING);
        Self { data: buffer.as_mut_ptr(), parts, width, flags, buffer: PhantomData }
    }
}

// SAFETY: `part` is the only access.
unsafe impl Sync for Exchange<'_> {}

// SAFETY: a worker writes its own part before its flag says so, and others read it after.
unsafe impl<'a> Share for Exchange<'a> {
    type Part = Seat<'a>;

    unsafe fn part(&self, worker: usize, _: usize) -> Seat<'a> {
        let Self { data, parts, width, flags, buffer } = *self;
        Seat { exchange: Self { data, parts, width, flags, buffer }, worker, shown: false }
    }
}

/// One worker's place in an [`Exchange`].
pub(crate) struct Seat<'a> {
    exchange: Exchange<'a>,
    worker: usize,
    shown: bool,
}

impl<'a> Seat<'a> {
    /// Where part `worker` is, if it has one.
    fn place(&self, worker: usize) -> Option<(&'a AtomicBool, *mut f32)> {
        let Exchange { data, parts, width, flags, .. } = self.exchange;
        let flag = flags.get(worker).filter(|_| worker < parts)?;
        // SAFETY: inside the buffer.
        Some((&flag.0, unsafe { data.add(worker * width) }))
    }

    /// Lets `fill` write this worker's part, if it has one and has not shown it, and shows it.
    pub(crate) fn show(&mut self, fill: impl FnOnce(Option<&mut [f32]>)) {
        let own = if self.shown { None } else { self.place(self.worker) };
        self.shown = true;
        // SAFETY: nobody reads it before the flag says so, and this worker writes it once.
        fill(own.map(|(_, part)| unsafe {
            core::slice::from_raw_parts_mut(part, self.exchange.width)
        }));
        if let Some((flag, _)) = own {
            flag.store(true, Ordering::Release);
        }
    }

    /// The part of `worker`, if it has shown it.
    pub(crate) fn read(&self, worker: usize) -> Option<&'a [f32]> {
        let (flag, part) = self.place(worker)?;
        // SAFETY: it was written before the flag was set and is not written again.
        flag.load(Ordering::Acquire)
            .then(|| unsafe { core::slice::from_raw_parts(part, self.exchange.width) })
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::exec::Serial;
    use crate::tensor::workers::for_each;

    #[test]
    fn what_is_shown_can_be_read_and_is_written_once() {
        let (mut buffer, mut flags) = ([0.0; 2 * 3], Exchange::flags());
        for _ in 0..2 {
            let exchange = Exchange::new(&mut buffer, 3, &mut flags);
            for_each(&Serial, 4, exchange, |worker, mut seat| {
                assert_eq!(seat.read(worker), None);
                seat.show(|part| part.into_iter().flatten().for_each(|x| *x = worker as f32));
                seat.show(|part| assert!(part.is_none()));
                let seen: Vec<_> = (0..4).map(|other| seat.read(other).is_some()).collect();
                assert_eq!(seen, [true, worker > 0, false, false]);
                assert_eq!(seat.read(worker.min(1)), Some(&[worker.min(1) as f32; 3][..]));
            });
        }
    }
}
