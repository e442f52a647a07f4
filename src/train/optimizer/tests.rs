use safetensors::SafeTensors;

use super::*;

const STEPS: u64 = 10;

/// What `tests/golden/optimizer/make.py` starts from and takes as gradients.
fn values(count: usize, salt: u64) -> Vec<f32> {
    let value = |i: u64| {
        let x = ((i * 40503 + salt * 7919) % 65536) as f32 / 32768.0 - 1.0;
        x * x * x
    };
    (0..count as u64).map(value).collect()
}

fn groups(sizes: [usize; 3]) -> Vec<Group> {
    let mut start = 0;
    let settings = sizes.into_iter().zip([(1.0, 0.0), (16.0, 0.1), (1.0, 0.01)]);
    let group = |(size, (rate, decay))| {
        start += size;
        Group { range: start - size..start, rate, decay }
    };
    settings.map(group).collect()
}

fn steps(optimizer: &mut Optimizer, values_now: &mut [f32], steps: std::ops::Range<u64>) {
    for step in steps {
        optimizer.step(
            1e-2 * (1.0 - step as f32 / 16.0),
            values_now,
            &values(values_now.len(), 1 + step),
        );
    }
}

fn run(kind: OptimizerKind, sizes: [usize; 3]) -> (Vec<f32>, Optimizer) {
    let count = sizes.iter().sum();
    let (mut optimizer, mut now) = (Optimizer::new(kind, groups(sizes), count), values(count, 0));
    steps(&mut optimizer, &mut now, 0..STEPS);
    (now, optimizer)
}

fn golden(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/optimizer/optimizer.safetensors");
    let file = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data().to_vec()
}

fn floats(name: &str) -> Vec<f32> {
    golden(name)
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// The largest difference, relative to the larger of 0.1 and the value: parameters that begin near
/// 1 pass through 0.
fn distance(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / b.abs().max(0.1)).fold(0.0, f32::max)
}

const SMALL: [usize; 3] = [37, 100, 8];
const LARGE: [usize; 3] = [4196, 300, 5];

#[test]
fn adamw_is_that_of_torch() {
    let (now, optimizer) = run(OptimizerKind::adamw(), SMALL);
    assert!(distance(&now, &floats("adamw")) < 3e-6, "{}", distance(&now, &floats("adamw")));
    assert_eq!(optimizer.steps(), STEPS);
    let memory = |pick: fn(&Memory) -> &[f32]| {
        optimizer.groups.iter().flat_map(|(_, m)| pick(m).to_vec()).collect::<Vec<_>>()
    };
    let m = memory(|memory| if let Memory::Float { m, .. } = memory { m } else { panic!() });
    let v = memory(|memory| if let Memory::Float { v, .. } = memory { v } else { panic!() });
    assert!(distance(&m, &floats("adamw.m")) < 1e-6);
    assert!(
        v.iter()
            .zip(floats("adamw.v"))
            .all(|(ours, theirs)| (ours - theirs).abs() <= 1e-6 * theirs)
    );
    let other = OptimizerKind::AdamW { beta1: 0.8, beta2: 0.95, epsilon: 1e-6 };
    assert!(distance(&run(other, SMALL).0, &floats("adamw.betas")) < 3e-6);
}

#[test]
fn sgd_is_that_of_torch() {
    for (kind, name) in
        [(OptimizerKind::Sgd { momentum: 0.9 }, "sgd"), (OptimizerKind::sgd(), "sgd.plain")]
    {
        let apart = distance(&run(kind, SMALL).0, &floats(name));
        assert!(apart < 3e-6, "{name}: {apart}");
    }
}

#[test]
fn adamw_in_8_bits_is_that_of_bitsandbytes() {
    let map: Vec<u32> = floats("map.unsigned").iter().map(|value| value.to_bits()).collect();
    assert_eq!(super::super::eight_bit::UNSIGNED.map(f32::to_bits).as_slice(), map);
    let (now, optimizer) = run(OptimizerKind::adamw_8bit(), LARGE);
    let Memory::EightBit { m, v } = &optimizer.groups[0].1 else { panic!() };
    assert!(matches!(optimizer.groups[1].1, Memory::Float { .. }));
    // A last bit of a moment can tip a code to its neighbour; that happens to few.
    let tipped =
        |ours: &[u8], name| ours.iter().zip(golden(name)).filter(|&(a, b)| *a != b).count();
    assert!(tipped(&m.codes, "adamw8.m") <= 8, "{}", tipped(&m.codes, "adamw8.m"));
    assert!(tipped(&v.codes, "adamw8.v") <= 8, "{}", tipped(&v.codes, "adamw8.v"));
    assert!(distance(&m.absmax, &floats("adamw8.absmax_m")) < 1e-5);
    assert!(
        v.absmax
            .iter()
            .zip(floats("adamw8.absmax_v"))
            .all(|(ours, theirs)| (ours - theirs).abs() <= 1e-5 * theirs)
    );
    let theirs = floats("adamw8");
    let far =
        now.iter().zip(&theirs).filter(|(a, b)| (*a - *b).abs() > 1e-5 * b.abs().max(0.1)).count();
    assert!(far <= 16 && distance(&now, &theirs) < 0.2, "{far} {}", distance(&now, &theirs));
}

#[test]
fn adamw_in_8_bits_stays_near_adamw() {
    let (exact, rough) =
        (run(OptimizerKind::adamw(), LARGE).0, run(OptimizerKind::adamw_8bit(), LARGE).0);
    let start = values(exact.len(), 0);
    let (moved, apart): (f64, f64) =
        exact.iter().zip(&rough).zip(&start).fold((0.0, 0.0), |(moved, apart), ((a, b), s)| {
            (moved + f64::from(a - s).powi(2), apart + f64::from(a - b).powi(2))
        });
    assert!(apart.sqrt() < 0.1 * moved.sqrt(), "{apart} {moved}");
}

#[test]
fn a_saved_state_continues_bit_for_bit() {
    for kind in [
        OptimizerKind::adamw(),
        OptimizerKind::adamw_8bit(),
        OptimizerKind::Sgd { momentum: 0.9 },
        OptimizerKind::sgd(),
    ] {
        let count = LARGE.iter().sum();
        let (mut first, mut now) = (Optimizer::new(kind, groups(LARGE), count), values(count, 0));
        steps(&mut first, &mut now, 0..4);
        let (state, middle) = (first.save(), now.clone());
        assert_eq!((state.bytes.len(), state.steps), (first.bytes(), 4));
        steps(&mut first, &mut now, 4..STEPS);

        let (mut second, mut resumed) = (Optimizer::new(kind, groups(LARGE), count), middle);
        second.load(&state).unwrap();
        assert_eq!(second.save(), state);
        steps(&mut second, &mut resumed, 4..STEPS);
        assert!(now.iter().zip(&resumed).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind:?}");
        assert_eq!(second.save(), first.save());
    }
}

#[test]
fn a_state_of_another_length_is_refused_and_changes_nothing() {
    let (_, mut optimizer) = run(OptimizerKind::adamw(), SMALL);
    let before = optimizer.save();
    let short = State { steps: 1, bytes: vec![0; 8] };
    assert_eq!(optimizer.load(&short), Err(Error::Length { have: 8, need: 8 * 145 }));
    assert_eq!(optimizer.save(), before);
}

#[test]
fn memory_is_as_promised() {
    let bytes = |kind| Optimizer::new(kind, groups(LARGE), 4501).bytes();
    assert_eq!(bytes(OptimizerKind::adamw()), 8 * 4501);
    assert_eq!(bytes(OptimizerKind::adamw_8bit()), 2 * (4196 + 4 * 17) + 8 * 305);
    assert_eq!(bytes(OptimizerKind::Sgd { momentum: 0.5 }), 4 * 4501);
    assert_eq!(bytes(OptimizerKind::sgd()), 0);
}

#[test]
fn what_no_group_names_does_not_change_and_slices_may_be_short() {
    let group = Group { range: 2..400, rate: 1.0, decay: 0.5 };
    let (mut optimizer, mut now) =
        (Optimizer::new(OptimizerKind::adamw(), vec![group], 6), vec![1.0; 6]);
    optimizer.step(0.1, &mut now, &[1.0; 6]);
    assert!(now[..2] == [1.0; 2] && now[2..].iter().all(|&value| value < 1.0), "{now:?}");
    optimizer.step(0.1, &mut now[..1], &[1.0; 6]);
    optimizer.step(0.1, &mut now, &[]);
    let backwards = Group { range: Range { start: 5, end: 3 }, rate: 1.0, decay: 0.0 };
    Optimizer::new(OptimizerKind::adamw_8bit(), vec![backwards], 6).step(0.1, &mut now, &[1.0; 6]);
}

#[test]
fn clipping_is_that_of_torch() {
    for (name, limit) in [("above", 1.0), ("below", 100.0)] {
        let mut gradients = values(145, 3);
        let norm = clip(&mut gradients, limit);
        assert!(distance(&[norm], &floats(&format!("clip.{name}.norm"))) < 1e-6);
        assert!(distance(&gradients, &floats(&format!("clip.{name}"))) < 1e-6, "{name}");
    }
    let mut broken = [1.0, f32::NAN];
    assert!(clip(&mut broken, 0.5).is_nan());
    assert_eq!(broken[0], 1.0);
    assert_eq!(clip(&mut [], 1.0), 0.0);
}
