//! A grid of blocks: each block's warps run in turn, from barrier to barrier.

use crate::memory::Memory;
use crate::module::Entry;
use crate::shared::Shared;
use crate::warp::{Stop, Warp};
use crate::{Fault, Kind, Result};

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'l> {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// The parameters' bytes, as [`Entry::parameters`] says.
    pub parameters: &'l [u8],
}

/// What a launch took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions of warps.
    pub warps: u64,
    /// Instructions of threads.
    pub lanes: u64,
}

/// What the warps of a block share.
pub(crate) struct Block<'b> {
    pub(crate) entry: &'b Entry,
    pub(crate) launch: &'b Launch<'b>,
    pub(crate) place: [u32; 3],
    pub(crate) memory: &'b mut Memory,
    pub(crate) shared: Shared,
    pub(crate) stats: Stats,
}

/// The most threads of a block, on every card.
const MOST_THREADS: u32 = 1024;

/// Runs all blocks of a grid.
///
/// # Errors
/// What [`Kind`] lists; memory then holds what was written before.
pub fn launch(entry: &Entry, launch: &Launch<'_>, memory: &mut Memory) -> Result<Stats> {
    let threads: u32 = launch.block.iter().product();
    let most = entry.max_threads.map_or(MOST_THREADS, |most| most as u32);
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    if threads == 0 || threads > most || blocks == 0 {
        let text = format!("{blocks} blocks of {threads} threads: {} takes {most}", entry.name());
        return Err(Fault::new(0, Kind::Launch, text));
    }
    let bytes = entry.parameters().last().map_or(0, |(offset, size)| offset + size);
    if launch.parameters.len() != bytes {
        let text = format!("{} bytes of parameters, not {bytes}", launch.parameters.len());
        return Err(Fault::new(0, Kind::Launch, text));
    }
    let mut stats = Stats::default();
    for z in 0..launch.grid[2] {
        for y in 0..launch.grid[1] {
            for x in 0..launch.grid[0] {
                let shared = Shared::new(entry.shared);
                let place = [x, y, z];
                let block = Block { entry, launch, place, memory: &mut *memory, shared, stats };
                stats = block.run(threads)?;
            }
        }
    }
    Ok(stats)
}

impl Block<'_> {
    fn run(mut self, threads: u32) -> Result<Stats> {
        let warps = threads.div_ceil(32);
        let [width, height, _] = self.launch.block;
        let mut warps: Vec<Warp> = (0..warps)
            .map(|number| {
                let thread = |lane: u32| {
                    let i = number * 32 + lane;
                    [i % width, i / width % height, i / width / height]
                };
                let live = (threads - number * 32).min(32);
                Warp::new(number as u16, live, self.entry.registers, thread)
            })
            .collect();
        loop {
            // The line of the barrier that the warps so far wait at.
            let mut waiting = None;
            for warp in &mut warps {
                let Stop::Barrier(line) = warp.run(&mut self)? else { continue };
                if *waiting.get_or_insert(line) != line {
                    let text =
                        format!("warps wait at different barriers, here and in line {waiting:?}");
                    return Err(Fault::new(line, Kind::Divergent, text));
                }
            }
            if waiting.is_none() {
                return Ok(self.stats);
            }
            self.shared.barrier();
        }
    }
}
