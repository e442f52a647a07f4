//! An archive file reads the same mapped and loaded, and a file that is none is refused both ways.
#![cfg(feature = "std")]

use std::path::Path;

use lowrank::archive::ArchiveFile;
use lowrank::file::FileError;
use lowrank::model::llama::Llama;

type Way = fn(&Path) -> Result<ArchiveFile, FileError>;

const WAYS: [Way; 2] = [|path| ArchiveFile::open(path), |path| ArchiveFile::load(path)];

#[test]
fn loaded_and_mapped_are_the_same_bytes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny.lrk");
    let expected = std::fs::read(&path).unwrap();
    for way in WAYS {
        let file = way(&path).unwrap();
        assert!(file[..] == expected[..]);
        assert_eq!(file.as_ptr().addr() % 64, 0);
        Llama::verify(&file).unwrap();
    }
}

#[test]
fn what_is_no_archive_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.lrk");
    for way in WAYS {
        for bytes in [&[][..], b"LRK", &[7; 4096]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(
                way(&path).unwrap_err().to_string().contains("base.lrk"),
                "{} bytes",
                bytes.len()
            );
        }
        assert!(
            way(&folder.path().join("absent.lrk")).unwrap_err().to_string().contains("absent.lrk")
        );
        assert!(
            way(folder.path()).unwrap_err().to_string().contains(folder.path().to_str().unwrap())
        );
    }
}
