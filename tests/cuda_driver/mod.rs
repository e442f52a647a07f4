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
