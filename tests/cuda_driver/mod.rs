//! The software driver of `crates/softptx`, built if need be.

use std::path::PathBuf;
use std::process::Command;

/// Builds the driver with the profile and into the folder of this test; where it is.
pub fn software_driver() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let profile = exe.ancestors().nth(2).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "softptx", "--target-dir"]);
    build.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    let library = profile.join("libsoftptx.so");
    assert!(library.exists(), "{}", library.display());
    library
}

/// The variable that tells a test that it is in the process of its own.
const PLANTED: &str = "LOWRANK_TEST_PLANTED";

/// Is this the process of test `name` in which `fault` is planted in the software driver? If not,
/// that process is run, and must pass: the caller then has nothing more to do.
pub fn is_planted(name: &str, fault: (&str, &str)) -> bool {
    if std::env::var_os(PLANTED).is_some_and(|planted| planted == name) {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(PLANTED, name)
        .env(lowrank_cuda_driver::OVERRIDE, software_driver())
        .env(fault.0, fault.1)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{fault:?}: {text}{error}");
    false
}
