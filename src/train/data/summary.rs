//! What a file holds, in sentences: what a run says at its start.

use super::labels::LISTED;
use super::{Dataset, Task};

impl Dataset<'_> {
    /// What is in it, a sentence without the file's name: examples, tokens or features, labels with
    /// how often each is there, whether a row names the columns.
    pub fn summary(&self) -> String {
        let mut text = counted(self.len() as u64, "example");
        if self.width > 0 {
            text += &format!(" of {}", counted(self.width as u64, "feature"));
        } else {
            text += &format!(", {}", counted(self.rows(), "token"));
        }
        if self.task == Task::Classify {
            text += &format!(", {}: ", counted(self.labels.len() as u64, "label"));
            let each = self.labels.iter().zip(&self.label_counts).take(LISTED);
            let each: Vec<String> = each.map(|(label, count)| format!("{label} {count}")).collect();
            text += &each.join(", ");
            if self.labels.len() > LISTED {
                text += &format!(" and {} more", self.labels.len() - LISTED);
            }
        }
        if let Some(line) = self.header {
            text += &format!("; line {line} names the columns");
        }
        text
    }

    /// What of the file is not learnt or measured as it stands there: a sentence each, without the
    /// file's name; none if nothing is lost.
    pub fn losses(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.truncated > 0 {
            let all = self.len() + self.skipped;
            let (are, were) = if self.truncated == 1 { ("is", "was") } else { ("are", "were") };
            said.push(format!(
                "{} of {} {are} longer than {} tokens and {were} cut (--max-length)",
                self.truncated,
                counted(all as u64, "example"),
                self.options.max_length
            ));
        }
        if self.skipped > 0 {
            let (were, them) = if self.skipped == 1 { ("was", "it") } else { ("were", "them") };
            said.push(format!(
                "{} {were} left out: nothing in {them} is scored",
                counted(self.skipped as u64, "record")
            ));
        }
        said
    }
}

/// "1 label", "2 labels".
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
