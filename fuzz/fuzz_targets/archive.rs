//! Any archive with a right checksum: opened as every root, verified, run.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(archive) = lowrank_fuzz::archive(data) else { return };
    lowrank_fuzz::run_archive(&archive);
});
