//! 32 threads that run together. Where they part, those at the lowest instruction run first, so
//! that they meet again as soon as they can.

use crate::block::Block;
use crate::convert::convert;
use crate::decode::{Instruction, Op, Shuffle, Space};
use crate::operand::{Special, Value};
use crate::types::Type;
use crate::{Fault, Kind, Result};

pub(crate) type Lanes = [u64; 32];

/// A register: its number in every lane, and in which lanes it was written.
#[derive(Debug, Clone)]
struct Register {
    lanes: Lanes,
    written: u32,
}

/// Threads at the same instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    at: usize,
    lanes: u32,
    /// Do they wait there for others?
    waits: bool,
}

#[derive(Debug)]
pub(crate) struct Warp {
    number: u16,
    /// All of its threads.
    all: u32,
    /// Threads that run on, by rising instruction.
    groups: Vec<Group>,
    registers: Vec<Register>,
    threads: [[u32; 3]; 32],
}

/// Why a warp stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It waits at the barrier in this line.
    Barrier(u32),
    Done,
}

/// The most parts of a load: `v4`.
const MOST_PARTS: usize = 4;

/// The lanes of a mask.
fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lane = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lane)
    })
}

impl Warp {
    /// `live` threads at the places that `thread` gives.
    pub(crate) fn new(
        number: u16,
        live: u32,
        registers: usize,
        thread: impl Fn(u32) -> [u32; 3],
    ) -> Self {
        let all = u32::MAX >> (32 - live);
        let register = Register { lanes: [0xdead_beef_dead_beef; 32], written: 0 };
        Self {
            number,
            all,
            groups: vec![Group { at: 0, lanes: all, waits: false }],
            registers: vec![register; registers],
            threads: core::array::from_fn(|lane| thread(lane as u32)),
        }
    }

    /// Runs up to the next barrier or to the end.
    pub(crate) fn run(&mut self, block: &mut Block<'_>) -> Result<Stop> {
        let entry = block.entry;
        while !self.groups.is_empty() {
            // Where all wait, the first says what it misses.
            let first = self.groups.iter().position(|group| !group.waits);
            let (group, is_last) = (first.unwrap_or(0), first.is_none());
            let Group { at, lanes: mask, .. } = self.groups[group];
            let Some(instruction) = entry.code.get(at) else {
                return Err(Fault::new(0, Kind::Unknown, "a thread ran past the last instruction"));
            };
            let active = self.active(instruction, mask)?;
            if let Err(fault) = self.complete(instruction, active) {
                if is_last || active != mask {
                    return Err(Fault { line: instruction.line, ..fault });
                }
                self.groups[group].waits = true;
                continue;
            }
            block.stats.warps += 1;
            block.stats.lanes += u64::from(active.count_ones());
            self.groups[group] = Group { at: at + 1, lanes: mask, waits: false };
            match &instruction.op {
                Op::Branch(target) => {
                    self.groups[group].lanes &= !active;
                    self.groups.push(Group { at: *target, lanes: active, waits: false });
                }
                Op::Return => self.groups[group].lanes &= !active,
                Op::Barrier => return Ok(Stop::Barrier(instruction.line)),
                _ => self
                    .step(block, instruction, active)
                    .map_err(|fault| Fault { line: instruction.line, ..fault })?,
            }
            self.meet();
        }
        Ok(Stop::Done)
    }

    /// Are all threads there that an instruction needs together?
    fn complete(&self, instruction: &Instruction, active: u32) -> Result<()> {
        let members = match instruction.op {
            Op::Barrier => [self.all.into(); 32],
            Op::Matrix { .. } => [u32::MAX.into(); 32],
            Op::WarpBarrier(members) | Op::Shuffle { from: [.., members], .. } => {
                self.fetch(members, active, None)?
            }
            _ => return Ok(()),
        };
        together(&members, active)
    }

    /// The lanes of `mask` in which the instruction's guard is true.
    fn active(&self, instruction: &Instruction, mask: u32) -> Result<u32> {
        let Some(guard) = instruction.guard else { return Ok(mask) };
        let truth = self
            .fetch(guard, mask, None)
            .map_err(|fault| Fault { line: instruction.line, ..fault })?;
        Ok(lanes_of(mask)
            .filter(|&lane| truth[lane] & 1 == 1)
            .fold(0, |mask, lane| mask | 1 << lane))
    }

    /// Drops empty groups, sorts the others, and joins those at the same instruction.
    fn meet(&mut self) {
        if let [group] = self.groups[..]
            && group.lanes != 0
        {
            return;
        }
        self.groups.retain(|group| group.lanes != 0);
        self.groups.sort_unstable();
        self.groups.dedup_by(|next, kept| {
            let same = next.at == kept.at;
            if same {
                kept.lanes |= next.lanes;
                kept.waits = false;
            }
            same
        });
    }

    /// The numbers of an operand; those of lanes in `mask` must have been written.
    pub(crate) fn fetch(
        &self,
        value: Value,
        mask: u32,
        block: Option<&Block<'_>>,
    ) -> Result<Lanes> {
        let dimensions = |per_block: &dyn Fn(&Block<'_>) -> u32| {
            [block.map_or(0, |block| u64::from(per_block(block))); 32]
        };
        Ok(match value {
            Value::Constant(value) => [value; 32],
            Value::Register(number) | Value::Not(number) => {
                let register = &self.registers[number as usize];
                if register.written & mask != mask {
                    let text = "a register is read that nothing wrote";
                    return Err(Fault::new(0, Kind::Uninitialized, text));
                }
                match value {
                    Value::Not(_) => register.lanes.map(|bit| bit & 1 ^ 1),
                    _ => register.lanes,
                }
            }
            Value::Special(Special::Lane) => core::array::from_fn(|lane| lane as u64),
            Value::Special(Special::Thread(d)) => self.threads.map(|thread| thread[d].into()),
            Value::Special(Special::Threads(d)) => dimensions(&|block| block.launch.block[d]),
            Value::Special(Special::Block(d)) => dimensions(&|block| block.place[d]),
            Value::Special(Special::Blocks(d)) => dimensions(&|block| block.launch.grid[d]),
        })
    }

    pub(crate) fn put(&mut self, to: u32, mask: u32, number: impl Fn(usize) -> u64) {
        let register = &mut self.registers[to as usize];
        // Most often all of them: one loop of vector code.
        if mask == u32::MAX {
            register.lanes.iter_mut().enumerate().for_each(|(lane, to)| *to = number(lane));
        } else {
            lanes_of(mask).for_each(|lane| register.lanes[lane] = number(lane));
        }
        register.written |= mask;
    }

    /// Everything but branches and barriers.
    fn step(&mut self, block: &mut Block<'_>, instruction: &Instruction, mask: u32) -> Result<()> {
        match &instruction.op {
            Op::Load { space, ty, to, at } => return self.load(block, *space, *ty, to, *at, mask),
            Op::Store { space, ty, from, at } => {
                return self.store(block, *space, *ty, from, *at, mask);
            }
            &Op::Compute { what, ty, to, from } => {
                let mut numbers = [[0; 32]; 3];
                for (lanes, from) in numbers.iter_mut().zip(from).take(what.operands()) {
                    *lanes = self.fetch(from, mask, Some(block))?;
                }
                let result = what.of_lanes(ty, &numbers);
                self.put(to, mask, |lane| result[lane]);
            }
            &Op::Convert { from_type, to_type, rounding, to, from } => {
                let from = self.fetch(from, mask, Some(block))?;
                self.put(to, mask, |lane| convert(from_type, to_type, rounding, from[lane]));
            }
            &Op::Compare { what, ty, to, from: [a, b] } => {
                let a = self.fetch(a, mask, Some(block))?;
                let b = self.fetch(b, mask, Some(block))?;
                self.put(to, mask, |lane| what.of(ty, a[lane], b[lane]).into());
            }
            Op::Pack { ty, to, from } => {
                let mut whole = [0; 32];
                for (i, &part) in from.iter().enumerate() {
                    let part = self.fetch(part, mask, Some(block))?;
                    let shift = 8 * ty.size() * i;
                    whole
                        .iter_mut()
                        .zip(part)
                        .for_each(|(whole, part)| *whole |= ty.cut(part) << shift);
                }
                self.put(*to, mask, |lane| whole[lane]);
            }
            Op::Unpack { ty, to, from } => {
                let whole = self.fetch(*from, mask, Some(block))?;
                for (i, to) in to.iter().enumerate().filter_map(|(i, to)| Some((i, (*to)?))) {
                    self.put(to, mask, |lane| ty.cut(whole[lane] >> (8 * ty.size() * i)));
                }
            }
            &Op::Shuffle { how, to, inside, from } => {
                return self.shuffle(how, to, inside, from, mask);
            }
            &Op::Matrix { to, a, b, c } => return self.matrix(to, a, b, c),
            Op::Branch(_) | Op::Barrier | Op::WarpBarrier(_) | Op::Return => {}
        }
        Ok(())
    }

    fn load(
        &mut self,
        block: &mut Block<'_>,
        space: Space,
        ty: Type,
        to: &[Option<u32>],
        (base, offset): (Value, i64),
        mask: u32,
    ) -> Result<()> {
        let (base, size) = (self.fetch(base, mask, Some(block))?, ty.size());
        let mut numbers = [[0; 32]; MOST_PARTS];
        for lane in lanes_of(mask) {
            let address = aligned(base[lane], offset, size * to.len())?;
            let mut bytes = [0; 8 * MOST_PARTS];
            let bytes = &mut bytes[..size * to.len()];
            match space {
                Space::Global => block.memory.read(address, bytes)?,
                Space::Shared => block.shared.read(self.number, address, bytes)?,
                Space::Parameter => {
                    let from = block.launch.parameters.get(address as usize..);
                    let from = from.and_then(|from| from.get(..bytes.len())).ok_or_else(|| {
                        Fault::new(0, Kind::OutOfBounds, "a load past the parameters")
                    })?;
                    bytes.copy_from_slice(from);
                }
            }
            for (numbers, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(size)) {
                let number = match bytes {
                    &[a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
                    _ => bytes.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)),
                };
                // Signed numbers keep their sign in wider registers.
                let is_signed = matches!(ty, Type::S(_));
                numbers[lane] = if is_signed { ty.integer(number) as u64 } else { number };
            }
        }
        for (to, numbers) in to.iter().zip(&numbers) {
            if let Some(to) = *to {
                self.put(to, mask, |lane| numbers[lane]);
            }
        }
        Ok(())
    }

    fn store(
        &mut self,
        block: &mut Block<'_>,
        space: Space,
        ty: Type,
        from: &[Value],
        (base, offset): (Value, i64),
        mask: u32,
    ) -> Result<()> {
        let (base, size) = (self.fetch(base, mask, Some(block))?, ty.size());
        let mut numbers = Vec::with_capacity(from.len());
        for &from in from {
            numbers.push(self.fetch(from, mask, Some(block))?);
        }
        for lane in lanes_of(mask) {
            let address = aligned(base[lane], offset, size * from.len())?;
            let mut bytes = [0; 64];
            let bytes = &mut bytes[..size * from.len()];
            for (bytes, numbers) in bytes.chunks_mut(size).zip(&numbers) {
                bytes.copy_from_slice(&numbers[lane].to_le_bytes()[..size]);
            }
            match space {
                Space::Global => block.memory.write(address, bytes)?,
                Space::Shared => block.shared.write(self.number, address, bytes)?,
                Space::Parameter => {
                    return Err(Fault::new(0, Kind::OutOfBounds, "a store to a parameter"));
                }
            }
        }
        Ok(())
    }

    fn shuffle(
        &mut self,
        how: Shuffle,
        to: u32,
        inside: Option<u32>,
        [number, by, clamp, _]: [Value; 4],
        mask: u32,
    ) -> Result<()> {
        let number = self.fetch(number, mask, None)?;
        let (by, clamp) = (self.fetch(by, mask, None)?, self.fetch(clamp, mask, None)?);
        let mut sources = [(0, false); 32];
        for lane in lanes_of(mask) {
            let (segment, clamp) = ((clamp[lane] >> 8 & 31) as i64, (clamp[lane] & 31) as i64);
            let (i, by) = (lane as i64, (by[lane] & 31) as i64);
            let last = i & segment | clamp & !segment;
            let (from, is_inside) = match how {
                Shuffle::Up => (i - by, i - by >= last),
                Shuffle::Down => (i + by, i + by <= last),
                Shuffle::Butterfly => (i ^ by, i ^ by <= last),
                Shuffle::Index => {
                    let from = i & segment | by & !segment;
                    (from, from <= last)
                }
            };
            let from = if is_inside { from } else { i };
            if mask >> from & 1 == 0 {
                let text = format!("lane {lane} asks lane {from}, which does not take part");
                return Err(Fault::new(0, Kind::Divergent, text));
            }
            sources[lane] = (from as usize, is_inside);
        }
        self.put(to, mask, |lane| Type::B(4).cut(number[sources[lane].0]));
        if let Some(inside) = inside {
            self.put(inside, mask, |lane| sources[lane].1.into());
        }
        Ok(())
    }
}

/// Are the lanes that an instruction names those that run it?
fn together(members: &Lanes, mask: u32) -> Result<()> {
    match lanes_of(mask).find(|&lane| members[lane] as u32 != mask) {
        None => Ok(()),
        Some(lane) => {
            let named = members[lane] as u32;
            let text = format!("lanes {named:#x} are to meet here, {mask:#x} came");
            Err(Fault::new(0, Kind::Divergent, text))
        }
    }
}

/// `base + offset`, a multiple of `size`.
fn aligned(base: u64, offset: i64, size: usize) -> Result<u64> {
    let address = base.wrapping_add(offset as u64);
    if address.is_multiple_of(size as u64) {
        return Ok(address);
    }
    let text = format!("access of {size} bytes at {address:#x}, no multiple of them");
    Err(Fault::new(0, Kind::Misaligned, text))
}
