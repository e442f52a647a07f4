//! IA3 in a PEFT directory: a module's `ia3_l`, `[out, 1]` where it scales outputs and `[1, in]` where
//! it scales inputs, and what it must not have beside it. The directory is read by `peft`.

use super::peft::Module;
use super::peft_names::Role;
use crate::adapter::{Scaled, TargetParts};
use crate::file::FileError;

impl Module<'_> {
    /// Refuses what the other kind of adapter has.
    pub(super) fn check_kind(&self) -> Result<(), FileError> {
        let is_ia3 = self.settings.is_ia3;
        let foreign = |role: &Role| *role != Role::Base && (*role == Role::Scale) != is_ia3;
        let Some((_, (name, _))) = self.tensors.iter().find(|(role, _)| foreign(role)) else {
            return Ok(());
        };
        let (kind, path) = (self.settings.kind(), self.settings.path.display());
        let reason = format!("no tensor of {kind}, which {path} says that the adapter is");
        Err(FileError::format(self.file, *name, reason))
    }

    /// IA3's l, and the side of the layer that it scales.
    pub(super) fn scaling(
        &self,
        shape: [usize; 2],
        is_embedding: bool,
    ) -> Result<TargetParts, FileError> {
        let [outputs, inputs] = shape;
        let found = self.tensors.get(&Role::Scale);
        let (name, stored) = found.ok_or_else(|| self.error("ia3_l is missing"))?;
        let refused = |reason: String| FileError::format(self.file, *name, reason);
        if is_embedding {
            return Err(refused("IA3 on embeddings is not supported".into()));
        }
        let stated = self.settings.scales_inputs(self.path).map_err(|reason| {
            FileError::format(&self.settings.path, "feedforward_modules", reason)
        })?;
        let is_input = stated.unwrap_or(stored.shape != [outputs, 1]);
        let (side, wanted) =
            if is_input { (Scaled::Input, [1, inputs]) } else { (Scaled::Output, [outputs, 1]) };
        if stored.shape != wanted {
            return Err(refused(format!(
                "the shape is {:?}, the base and feedforward_modules of {} ask for {wanted:?}",
                stored.shape,
                self.settings.path.display()
            )));
        }
        if is_input && !self.base.scales_inputs(self.site) {
            return Err(refused(
                "other layers read the inputs of this one too: of it only the outputs can be \
                 scaled, leave it out of feedforward_modules"
                    .into(),
            ));
        }
        Ok(TargetParts::scaling(side, self.values(name, *stored)?))
    }
}
