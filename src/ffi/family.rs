//! The family of an opened base. Programs link only the families that they open: what differs
//! between families is behind functions that `Model::open` notes.

use crate::adapter::Base;
use crate::archive::Header;
use crate::error::{Error, Result, RootKind};
use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::model::lstm::Lstm;
use crate::model::mlp::Mlp;

/// A base of any family.
#[derive(Clone, Copy)]
pub(super) enum Opened {
    Llama(Llama<'static>),
    Bert(Bert<'static>),
    Lstm(Lstm<'static>),
    Mlp(Mlp<'static>),
}

/// What C is told of a base; 0 and none where a family has no such thing.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) vocab: usize,
    pub(super) layers: usize,
    pub(super) context: usize,
    pub(super) max_length: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) bos: Option<u32>,
    pub(super) leading_bos: Option<u32>,
    pub(super) name: &'static str,
}

/// What a family is to C.
pub(super) trait Family: Base + Copy + 'static {
    const ROOT: RootKind;
    fn open(archive: &'static [u8]) -> Result<Self>;
    fn wrap(self) -> Opened;
    fn unwrap(opened: &Opened) -> Option<&Self>;
    fn header(&self) -> &Header;
    fn facts(&self) -> Facts;
    fn label(&self, _: usize) -> Option<&'static str> {
        None
    }
    fn is_stop(&self, _: u32) -> bool {
        false
    }
}

/// The functions of a family.
struct Table {
    base: fn(&Opened) -> Option<&dyn Base>,
    header: fn(&Opened) -> Option<&Header>,
    facts: fn(&Opened) -> Option<Facts>,
    label: fn(&Opened, usize) -> Option<&'static str>,
    is_stop: fn(&Opened, u32) -> bool,
}

struct TableOf<F>(core::marker::PhantomData<F>);

impl<F: Family> TableOf<F> {
    const TABLE: &'static Table = &Table {
        base: |opened| F::unwrap(opened).map(|model| model as &dyn Base),
        header: |opened| F::unwrap(opened).map(F::header),
        facts: |opened| F::unwrap(opened).map(F::facts),
        label: |opened, label| F::unwrap(opened)?.label(label),
        is_stop: |opened, token| F::unwrap(opened).is_some_and(|model| model.is_stop(token)),
    };
}

/// An opened base with its family's functions.
#[derive(Clone, Copy)]
pub(super) struct Model {
    opened: Opened,
    table: &'static Table,
}

impl Model {
    /// Opens an archive of the family `F`.
    pub(super) fn open<F: Family>(archive: &'static [u8]) -> Result<Self> {
        Ok(Self { opened: F::open(archive)?.wrap(), table: TableOf::<F>::TABLE })
    }

    /// The model, if it is of family `F`.
    pub(super) fn get<F: Family>(&self) -> Result<&F> {
        let wrong = || Error::WrongRoot { found: self.base().root(), expected: F::ROOT };
        F::unwrap(&self.opened).ok_or_else(wrong)
    }

    /// The model, whatever it is.
    #[cfg(feature = "std")]
    pub(super) fn opened(&self) -> &Opened {
        &self.opened
    }

    pub(super) fn base(&self) -> &dyn Base {
        let found = (self.table.base)(&self.opened);
        // SAFETY: `open` made both of one family, and nothing else makes a `Model`.
        unsafe { found.unwrap_unchecked() }
    }

    pub(super) fn header(&self) -> &Header {
        let found = (self.table.header)(&self.opened);
        // SAFETY: as in `base`.
        unsafe { found.unwrap_unchecked() }
    }

    pub(super) fn facts(&self) -> Facts {
        (self.table.facts)(&self.opened).unwrap_or_default()
    }

    /// The names that the base itself has for its outputs.
    pub(super) fn labels(&self) -> impl Iterator<Item = &'static str> {
        (0..).map_while(|label| (self.table.label)(&self.opened, label))
    }

    pub(super) fn is_stop(&self, token: u32) -> bool {
        (self.table.is_stop)(&self.opened, token)
    }
}

macro_rules! family {
    ($Family:ident, $root:ident, |$model:ident| $facts:expr $(, $more:item)*) => {
        impl Family for $Family<'static> {
            const ROOT: RootKind = RootKind::$root;

            fn open(archive: &'static [u8]) -> Result<Self> {
                $Family::open(archive)
            }

            fn wrap(self) -> Opened {
                Opened::$Family(self)
            }

            fn unwrap(opened: &Opened) -> Option<&Self> {
                match opened {
                    Opened::$Family(model) => Some(model),
                    _ => None,
                }
            }

            fn header(&self) -> &Header {
                $Family::header(self)
            }

            fn facts(&self) -> Facts {
                let $model = self;
                $facts
            }

            $($more)*
        }
    };
}

family! { Llama, LLAMA, |model| {
    let c = model.config();
    Facts {
        vocab: c.vocab,
        layers: c.layers,
        context: c.context,
        max_length: c.context,
        inputs: 0,
        outputs: c.vocab,
        bos: model.bos(),
        leading_bos: model.leading_bos(),
        name: model.name(),
    }
}, fn is_stop(&self, token: u32) -> bool {
    Llama::is_stop(self, token)
} }

family! { Bert, BERT, |model| {
    let c = model.config();
    Facts {
        vocab: c.vocab,
        layers: c.layers,
        context: c.context,
        max_length: model.max_length(),
        name: model.name(),
        ..Facts::default()
    }
} }

family! { Lstm, LSTM, |model| {
    let c = model.config();
    Facts {
        vocab: c.vocab,
        layers: c.layers,
        outputs: c.outputs,
        bos: model.bos(),
        leading_bos: model.leading_bos(),
        name: model.name(),
        ..Facts::default()
    }
}, fn label(&self, label: usize) -> Option<&'static str> {
    self.labels().nth(label)
}, fn is_stop(&self, token: u32) -> bool {
    Lstm::is_stop(self, token)
} }

family! { Mlp, MLP, |model| {
    let c = model.config();
    Facts {
        layers: c.layers,
        inputs: c.inputs,
        outputs: c.outputs,
        name: model.name(),
        ..Facts::default()
    }
}, fn label(&self, label: usize) -> Option<&'static str> {
    self.labels().nth(label)
} }
