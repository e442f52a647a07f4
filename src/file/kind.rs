//! What files hold, by their first bytes: so that only its like is replaced by an output.

use std::fmt;

use crate::error::RootKind;
use crate::header::MAGIC;

/// What an output is, so that only its like is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// An archive that holds a base, of whatever family.
    Base,
    /// An archive that holds an adapter.
    Adapter,
    /// An archive that holds a training checkpoint.
    Checkpoint,
    /// Numbers as NumPy writes them.
    Npy,
    /// Anything: whatever is there is replaced.
    Any,
}

impl Kind {
    /// The kind of an archive with this root.
    pub fn of_root(root: RootKind) -> Self {
        match root {
            RootKind::ADAPTER => Self::Adapter,
            RootKind::CHECKPOINT => Self::Checkpoint,
            _ => Self::Base,
        }
    }

    /// Does a file that begins with `head` hold the same kind? Of an empty one nothing is lost.
    pub(super) fn matches(self, head: &[u8]) -> bool {
        let found = root(head).map(Self::of_root);
        head.is_empty()
            || match self {
                Self::Any => true,
                Self::Npy => head.starts_with(NPY),
                archive => found == Some(archive),
            }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "a base archive",
            Self::Adapter => "an adapter archive",
            Self::Checkpoint => "a training checkpoint",
            Self::Npy => "a .npy file",
            Self::Any => "a file",
        })
    }
}

/// What .npy files begin with.
pub(super) const NPY: &[u8] = b"\x93NUMPY";

/// The root that an archive's header names.
pub(super) fn root(head: &[u8]) -> Option<RootKind> {
    let number = head.get(12..16).filter(|_| head.starts_with(&MAGIC))?;
    Some(RootKind(u32::from_le_bytes(number.try_into().ok()?)))
}
