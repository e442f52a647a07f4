//! lowrank for Python: the extension module `lowrank._lowrank` of the wheel. Its types are in
//! `lowrank/_lowrank.pyi`, its exceptions in `lowrank/_errors.py`.
//!
//! Whatever computes lets go of the interpreter's lock and looks for signals from time to time
//! (`watch`). Objects are frozen: what changes in them stands behind a lock of its own.

mod adapter;
mod adapters;
mod ask;
mod base;
mod batch;
mod data;
mod error;
mod json;
mod machine;
mod measure;
mod named;
mod options;
mod plan;
mod session;
mod state;
mod stream;
mod tokenizer;
mod train;
mod watch;

#[pyo3::pymodule]
mod _lowrank {
    #[pymodule_export]
    use crate::adapter::PyAdapter;
    #[pymodule_export]
    use crate::ask::PyReply;
    #[pymodule_export]
    use crate::base::PyBase;
    #[pymodule_export]
    use crate::measure::{classify, embed, evaluate};
    #[pymodule_export]
    use crate::plan::{compare, memory, train_memory};
    #[pymodule_export]
    use crate::session::PySession;
    #[pymodule_export]
    use crate::stream::PyStream;
    #[pymodule_export]
    use crate::tokenizer::PyTokenizer;
    #[pymodule_export]
    use crate::train::{PyTraining, train};
}
