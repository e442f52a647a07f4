//! Tests of the tester: a kernel with a fault of each kind is refused, with the kind and the line.

use softptx::{Fault, Kind, Launch, Memory, Module, launch};

/// The lines before a kernel's body: its first line is line 8.
const HEAD: &str = ".version 7.0
.target sm_75
.address_size 64
.visible .entry k(.param .u64 k_0)
{
.reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<4>;
.shared .align 4 .b8 room[256];
";

/// What 64 threads make of a body whose parameter is a buffer of 64 words that hold their index.
fn run(body: &str) -> Result<Vec<u32>, Fault> {
    let mut memory = Memory::default();
    let module = Module::load(&format!("{HEAD}{body}\n}}"), &mut memory)?;
    let words: Vec<u8> = (0..64u32).flat_map(u32::to_le_bytes).collect();
    let buffer = memory.upload(&words);
    let parameters = buffer.to_le_bytes();
    let place = Launch { grid: [1; 3], block: [64, 1, 1], parameters: &parameters };
    launch(module.entry("k").unwrap(), &place, &mut memory)?;
    let mut bytes = vec![0; words.len()];
    memory.read(buffer, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect())
}

/// The body finds its thread's word at %rd2 and its number in %r1.
const PLACE: &str = "ld.param.u64 %rd1, [k_0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; \
                     add.s64 %rd2, %rd1, %rd2;\n";

fn fault(body: &str) -> (Kind, u32) {
    let fault = run(&format!("{PLACE}{body}")).unwrap_err();
    assert!(!fault.text.is_empty());
    (fault.kind, fault.line)
}

#[test]
fn a_kernel_without_fault_runs() {
    let body = format!(
        "{PLACE}ld.global.u32 %r2, [%rd2]; mad.lo.s32 %r2, %r2, 2, 1; st.global.u32 [%rd2], %r2; ret;"
    );
    assert_eq!(run(&body).unwrap(), (0..64).map(|i| 2 * i + 1).collect::<Vec<_>>());
}

#[test]
fn threads_part_and_meet_again() {
    // Odd lanes go another way; the shuffle behind it needs all of them.
    let body = format!(
        "{PLACE}and.b32 %r2, %r1, 1; setp.eq.s32 %p1, %r2, 0; mov.u32 %r3, 10;
@%p1 bra $even;
mov.u32 %r3, 20;
$even:
shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
st.global.u32 [%rd2], %r4; ret;"
    );
    let expected: Vec<u32> = (0..64).map(|i| if i % 2 == 0 { 20 } else { 10 }).collect();
    assert_eq!(run(&body).unwrap(), expected);
}

#[test]
fn shared_memory_passes_a_barrier() {
    let body = format!(
        "{PLACE}mov.u32 %r2, room; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.u32 [%r3], %r1;
bar.sync 0;
sub.s32 %r4, 63, %r1; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.u32 %r5, [%r3];
st.global.u32 [%rd2], %r5; ret;"
    );
    assert_eq!(run(&body).unwrap(), (0..64).rev().collect::<Vec<_>>());
}

#[test]
fn accesses_outside_are_found() {
    assert_eq!(fault("ld.global.u32 %r2, [%rd2+4]; ret;"), (Kind::OutOfBounds, 9));
    assert_eq!(fault("\nst.global.u32 [%rd2+-4], %r1; ret;"), (Kind::OutOfBounds, 10));
    assert_eq!(fault("st.shared.u32 [room+256], %r1; ret;"), (Kind::OutOfBounds, 9));
}

#[test]
fn misaligned_accesses_are_found() {
    assert_eq!(fault("ld.global.u32 %r2, [%rd2+2]; ret;"), (Kind::Misaligned, 9));
    assert_eq!(fault("ld.global.v2.u32 {%r2, %r3}, [%rd2]; ret;"), (Kind::Misaligned, 9));
}

#[test]
fn reads_of_what_nothing_wrote_are_found() {
    assert_eq!(fault("\n\nst.global.u32 [%rd2], %r7; ret;"), (Kind::Uninitialized, 11));
    assert_eq!(fault("ld.shared.u32 %r2, [room]; ret;"), (Kind::Uninitialized, 9));
    // In half of the lanes only.
    let half = "and.b32 %r2, %r1, 1; setp.eq.s32 %p1, %r2, 0; @%p1 mov.u32 %r3, 1;
add.s32 %r3, %r3, 1; ret;";
    assert_eq!(fault(half), (Kind::Uninitialized, 10));
    assert_eq!(fault("@%p2 mov.u32 %r3, 1; ret;"), (Kind::Uninitialized, 9));
    let mut memory = Memory::default();
    let fresh = memory.allocate(4);
    assert_eq!(memory.read(fresh, &mut [0; 4]).unwrap_err().kind, Kind::Uninitialized);
}

#[test]
fn barriers_and_shuffles_that_not_all_reach_are_found() {
    let some = "setp.lt.u32 %p1, %r1, 7;\n";
    assert_eq!(fault(&format!("{some}@%p1 bar.sync 0; ret;")), (Kind::Divergent, 10));
    let branch = "@%p1 bra $other;\nbar.sync 0; ret;\n$other:\nret;";
    assert_eq!(fault(&format!("{some}{branch}")).0, Kind::Divergent);
    let shuffle = "@%p1 shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; ret;";
    assert_eq!(fault(&format!("{some}{shuffle}")), (Kind::Divergent, 10));
    let sync = "@%p1 bar.warp.sync -1; ret;";
    assert_eq!(fault(&format!("{some}{sync}")), (Kind::Divergent, 10));
    // The second warp waits elsewhere.
    let two = "setp.lt.u32 %p1, %r1, 32;
@%p1 bra $first;
bar.sync 0; ret;
$first:
bar.sync 0; ret;";
    assert_eq!(fault(two).0, Kind::Divergent);
}

#[test]
fn races_in_shared_memory_are_found() {
    // Every warp writes word 0; then one reads what the other wrote without a barrier.
    assert_eq!(fault("st.shared.u32 [room], %r1; ret;"), (Kind::Race, 9));
    let read = "mov.u32 %r2, room; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.u32 [%r3], %r1;
ld.shared.u32 %r4, [room]; ret;";
    assert_eq!(fault(read), (Kind::Race, 10));
}

#[test]
fn unknown_instructions_are_refused_when_loaded() {
    for (body, line) in [
        ("frobnicate.b32 %r1, %r2; ret;", 8),
        ("\nadd.cc.u32 %r1, %r2, %r3; ret;", 9),
        ("fma.rn.ftz.f32 %f0, %f1, %f2, %f3; ret;", 8),
        ("bar.arrive 0, 64; ret;", 8),
        ("bra $nowhere;", 8),
        ("ld.global.u32 %r1, [%unknown]; ret;", 8),
    ] {
        let fault = run(body).unwrap_err();
        assert_eq!((fault.kind, fault.line), (Kind::Unknown, line), "{body}: {fault}");
    }
}

#[test]
fn launches_fit_the_kernel() {
    let mut memory = Memory::default();
    let module = Module::load(&format!("{HEAD}ret;\n}}"), &mut memory).unwrap();
    let entry = module.entry("k").unwrap();
    for (block, parameters) in [([2048, 1, 1], &[0; 8][..]), ([0, 1, 1], &[0; 8]), ([1; 3], &[])] {
        let place = Launch { grid: [1; 3], block, parameters };
        assert_eq!(launch(entry, &place, &mut memory).unwrap_err().kind, Kind::Launch);
    }
}

/// A product of matrices takes all lanes.
#[test]
fn a_matrix_product_of_some_lanes_is_found() {
    let product = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r3,%r3}, \
                   {%r3}, {%f0,%f1,%f2,%f3}; ret;";
    let zeros = "mov.b32 %r3, 0; mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; \
                 mov.f32 %f3, %f0; setp.lt.u32 %p1, %r1, 16;";
    assert!(run(&format!("{PLACE}{zeros}{product}")).is_ok());
    assert_eq!(fault(&format!("{zeros}\n@%p1 {product}")), (Kind::Divergent, 10));
    let other = product.replace("m16n8k8", "m16n8k16");
    assert_eq!(fault(&format!("{zeros}\n{other}")), (Kind::Unknown, 10));
}
