//! Instructions, decoded once when a module is loaded. Whatever is not known is refused here.

use crate::compute::{Compute, Part};
use crate::convert::{Compare, Rounding};
use crate::operand::{Operand, Value};
use crate::types::Type;

#[derive(Debug)]
pub(crate) struct Instruction {
    /// Runs in lanes where this is true.
    pub(crate) guard: Option<Value>,
    pub(crate) op: Op,
    pub(crate) line: u32,
}

/// Where memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Parameter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// An instruction; `to` are registers.
#[derive(Debug)]
pub(crate) enum Op {
    Load {
        space: Space,
        ty: Type,
        to: Vec<Option<u32>>,
        at: (Value, i64),
    },
    Store {
        space: Space,
        ty: Type,
        from: Vec<Value>,
        at: (Value, i64),
    },
    Compute {
        what: Compute,
        ty: Type,
        to: u32,
        from: [Value; 3],
    },
    Convert {
        from_type: Type,
        to_type: Type,
        rounding: Rounding,
        to: u32,
        from: Value,
    },
    Compare {
        what: Compare,
        ty: Type,
        to: u32,
        from: [Value; 2],
    },
    /// One number of `ty`-sized parts, the first the lowest.
    Pack {
        ty: Type,
        to: u32,
        from: Vec<Value>,
    },
    Unpack {
        ty: Type,
        to: Vec<Option<u32>>,
        from: Value,
    },
    Shuffle {
        how: Shuffle,
        to: u32,
        inside: Option<u32>,
        from: [Value; 4],
    },
    /// `D = A B + C` of the warp: A `[16, 8]` and B `[8, 8]` of f16, C and D `[16, 8]` of f32.
    Matrix {
        to: [u32; 4],
        a: [Value; 2],
        b: Value,
        c: [Value; 4],
    },
    Branch(usize),
    Barrier,
    WarpBarrier(Value),
    Return,
}

type Decoded<T> = Result<T, String>;

/// The dotted parts of an instruction's name behind the first.
struct Name<'n> {
    modifiers: Vec<&'n str>,
    types: Vec<Type>,
}

impl Name<'_> {
    /// Was `modifier` there?
    fn take(&mut self, modifier: &str) -> bool {
        let at = self.modifiers.iter().position(|&found| found == modifier);
        at.map(|at| self.modifiers.remove(at)).is_some()
    }

    fn ty(&self) -> Decoded<Type> {
        self.types.first().copied().ok_or_else(|| "has no type".into())
    }

    /// `v2` and `v4`.
    fn width(&mut self) -> usize {
        if self.take("v4") {
            4
        } else if self.take("v2") {
            2
        } else {
            1
        }
    }

    fn part(&mut self) -> Part {
        if self.take("wide") {
            Part::Wide
        } else if self.take("hi") {
            Part::High
        } else {
            self.take("lo");
            Part::Low
        }
    }
}

/// The instruction called `name` with these operands.
pub(crate) fn decode(name: &str, operands: &[Operand<'_>]) -> Decoded<Op> {
    let mut parts = name.split('.');
    let base = parts.next().unwrap_or_default();
    let mut name = Name { modifiers: Vec::new(), types: Vec::new() };
    for part in parts {
        match Type::named(part) {
            Some(ty) => name.types.push(ty),
            None => name.modifiers.push(part),
        }
    }
    let op = match base {
        "ld" => load(&mut name, operands)?,
        "st" => store(&mut name, operands)?,
        "mov" => mov(&name, operands)?,
        "cvt" => convert(&mut name, operands)?,
        "setp" => compare(&mut name, operands)?,
        "shfl" => shuffle(&mut name, operands)?,
        // The label is filled in when all are known.
        "bra" => {
            name.take("uni");
            Op::Branch(usize::MAX)
        }
        "mma" => matrix(&mut name, operands)?,
        "bar" | "barrier" => barrier(&mut name, operands)?,
        "ret" | "exit" => Op::Return,
        _ => compute(base, &mut name, operands)?,
    };
    match name.modifiers.first() {
        Some(modifier) => Err(format!("`.{modifier}` is not known")),
        None => Ok(op),
    }
}

fn value(operands: &[Operand<'_>], at: usize) -> Decoded<Value> {
    match operands.get(at) {
        Some(Operand::Value(value)) => Ok(*value),
        _ => Err(format!("operand {at} is no number or register")),
    }
}

fn register(operands: &[Operand<'_>], at: usize) -> Decoded<u32> {
    match operands.get(at) {
        Some(Operand::Value(Value::Register(register))) => Ok(*register),
        _ => Err(format!("operand {at} is no register")),
    }
}

/// An operand's parts: those of a vector, or itself.
fn parts<'o, 's>(
    operands: &'o [Operand<'s>],
    at: usize,
    width: usize,
) -> Decoded<&'o [Operand<'s>]> {
    let parts = match operands.get(at) {
        Some(Operand::Vector(parts)) => &parts[..],
        Some(_) => &operands[at..=at],
        None => &[],
    };
    if parts.len() == width {
        Ok(parts)
    } else {
        Err(format!("operand {at} has not {width} parts"))
    }
}

/// Registers that are written; `_` is none.
fn targets(parts: &[Operand<'_>]) -> Decoded<Vec<Option<u32>>> {
    let target = |at| match parts[at] {
        Operand::Word("_") => Ok(None),
        _ => register(parts, at).map(Some),
    };
    (0..parts.len()).map(target).collect()
}

fn space(name: &mut Name<'_>) -> Space {
    if name.take("shared") {
        Space::Shared
    } else if name.take("param") {
        Space::Parameter
    } else {
        // Generic addresses are those of device memory: nothing makes one of a shared address.
        let _ = name.take("global") || name.take("const");
        Space::Global
    }
}

fn address(operands: &[Operand<'_>], at: usize) -> Decoded<(Value, i64)> {
    match operands.get(at) {
        Some(Operand::Address(base, offset)) => Ok((*base, *offset)),
        _ => Err(format!("operand {at} is no address")),
    }
}

fn load(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let (space, width) = (space(name), name.width());
    // Ways through the caches.
    let _ = name.take("nc");
    let to = targets(parts(operands, 0, width)?)?;
    Ok(Op::Load { space, ty: name.ty()?, to, at: address(operands, 1)? })
}

fn store(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let (space, width) = (space(name), name.width());
    let from = parts(operands, 1, width)?;
    let from = (0..width).map(|at| value(from, at)).collect::<Decoded<_>>()?;
    Ok(Op::Store { space, ty: name.ty()?, from, at: address(operands, 0)? })
}

fn mov(name: &Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let ty = name.ty()?;
    let part = |count: usize| match ty.size() / count {
        0 => Err("parts without bits".to_owned()),
        size => Ok(Type::B(size as u8)),
    };
    match operands {
        [Operand::Vector(to), from] => {
            let from = value(std::slice::from_ref(from), 0)?;
            Ok(Op::Unpack { ty: part(to.len())?, to: targets(to)?, from })
        }
        [to, Operand::Vector(from)] => {
            let to = register(std::slice::from_ref(to), 0)?;
            let ty = part(from.len())?;
            let from = (0..from.len()).map(|at| value(from, at)).collect::<Decoded<_>>()?;
            Ok(Op::Pack { ty, to, from })
        }
        _ => {
            let from = [value(operands, 1)?; 3];
            Ok(Op::Compute { what: Compute::Move, ty, to: register(operands, 0)?, from })
        }
    }
}

fn convert(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let [to_type, from_type] = name.types[..] else { return Err("needs two types".into()) };
    let rounding = [
        ("rn", Rounding::Nearest),
        ("rni", Rounding::Nearest),
        ("rz", Rounding::Zero),
        ("rzi", Rounding::Zero),
        ("rmi", Rounding::Down),
        ("rpi", Rounding::Up),
    ];
    let rounding = rounding.iter().find(|(modifier, _)| name.take(modifier));
    let rounding = rounding.map_or(Rounding::Nearest, |found| found.1);
    let (to, from) = (register(operands, 0)?, value(operands, 1)?);
    Ok(Op::Convert { from_type, to_type, rounding, to, from })
}

fn compare(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let what = Compare::ALL.iter().find(|(modifier, _)| name.take(modifier));
    let what = what.ok_or("no comparison that is known")?.1;
    let from = [value(operands, 1)?, value(operands, 2)?];
    if operands.len() != 3 {
        return Err("more than a comparison".into());
    }
    Ok(Op::Compare { what, ty: name.ty()?, to: register(operands, 0)?, from })
}

fn shuffle(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let modes = [
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ];
    let how = modes.iter().find(|(modifier, _)| name.take(modifier)).ok_or("no mode")?.1;
    if !name.take("sync") {
        return Err("only shfl.sync is known".into());
    }
    let (inside, first) =
        if operands.len() == 6 { (Some(register(operands, 1)?), 2) } else { (None, 1) };
    let mut from = [Value::Constant(0); 4];
    for (i, from) in from.iter_mut().enumerate() {
        *from = value(operands, first + i)?;
    }
    Ok(Op::Shuffle { how, to: register(operands, 0)?, inside, from })
}

/// `mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32`.
fn matrix(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let known = ["sync", "aligned", "m16n8k8", "row", "col"];
    if !known.iter().all(|modifier| name.take(modifier))
        || name.types != [Type::F32, Type::F16, Type::F16, Type::F32]
    {
        return Err("only m16n8k8 of f16 with sums in f32 is known".into());
    }
    let [to, a, b, c] =
        [(0, 4), (1, 2), (2, 1), (3, 4)].map(|(at, width)| parts(operands, at, width));
    let (to, a, b, c) = (to?, a?, b?, c?);
    let four = |i| value(c, i);
    Ok(Op::Matrix {
        to: [register(to, 0)?, register(to, 1)?, register(to, 2)?, register(to, 3)?],
        a: [value(a, 0)?, value(a, 1)?],
        b: value(b, 0)?,
        c: [four(0)?, four(1)?, four(2)?, four(3)?],
    })
}

/// `bar.sync 0` and `bar.warp.sync mask`.
fn barrier(name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let (warp, _) = (name.take("warp"), name.take("aligned"));
    if !name.take("sync") {
        return Err("only barriers that synchronize are known".into());
    }
    match operands {
        [Operand::Value(mask)] if warp => Ok(Op::WarpBarrier(*mask)),
        [Operand::Value(Value::Constant(0))] => Ok(Op::Barrier),
        _ => Err("only barrier 0 of all threads is known".into()),
    }
}

fn compute(base: &str, name: &mut Name<'_>, operands: &[Operand<'_>]) -> Decoded<Op> {
    let known = Compute::named(base).ok_or("not known")?;
    let what = match known {
        Compute::Multiply(_) => Compute::Multiply(name.part()),
        Compute::MultiplyAdd(_) => Compute::MultiplyAdd(name.part()),
        other => other,
    };
    // Nearest is how everything here rounds; approximations are computed exactly.
    let _ = name.take("rn") || name.take("approx");
    if known == Compute::Address && !(name.take("to") & name.take("global")) {
        return Err("only addresses of device memory are known".into());
    }
    let count = what.operands();
    if operands.len() != count + 1 {
        return Err(format!("takes {count} operands"));
    }
    let mut from = [Value::Constant(0); 3];
    for (i, from) in from.iter_mut().enumerate().take(count) {
        *from = value(operands, i + 1)?;
    }
    Ok(Op::Compute { what, ty: name.ty()?, to: register(operands, 0)?, from })
}
