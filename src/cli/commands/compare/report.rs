//! The folder that `compare` writes: a page with the table, two CSV files, two pictures. It appears
//! whole or not at all.

use std::fmt::Write;

use lowrank::file::{FileError, FolderKind, OutputFolder, read_text, write_whole};
use lowrank::train::{Row, Run, Spread, smoothed};

use super::plot;
use crate::Failure;

/// What there is to say.
pub(crate) struct Report<'r> {
    pub(crate) runs: &'r [Run],
    pub(crate) rows: &'r [Row],
    pub(crate) facts: &'r [(&'static str, String)],
    pub(crate) classifies: bool,
}

/// What the page begins with.
const TITLE: &str = "# Comparison of methods";

const PAGE: &str = "report.md";
const RESULTS: &str = "results.csv";
const LOSSES: &str = "losses.csv";
const LOSS: &str = "loss.svg";
const QUALITY: &str = "accuracy-memory.svg";

/// What a report is to whoever writes one.
pub(crate) static REPORT: FolderKind = FolderKind {
    name: "a report",
    files: &[PAGE, RESULTS, LOSSES, LOSS, QUALITY],
    key: PAGE,
    is_own: |folder| read_text(folder.join(PAGE)).is_ok_and(|page| page.starts_with(TITLE)),
};

impl Report<'_> {
    /// Writes the folder: all of it appears, and an older report goes away.
    pub(crate) fn write(&self, folder: &OutputFolder) -> Result<(), Failure> {
        let quality = if self.classifies { "accuracy" } else { "perplexity (lower is better)" };
        let files = [
            (PAGE, self.page()),
            (RESULTS, self.results()?),
            (LOSSES, self.losses()?),
            (LOSS, plot::losses(&self.curves())?),
            (QUALITY, plot::quality(&self.points(), quality)?),
        ];
        Ok(folder.write(|folder| {
            files.iter().try_for_each(|(name, content)| {
                let path = folder.join(name);
                write_whole(&path, |file| {
                    use std::io::Write;
                    file.write_all(content.as_bytes()).map_err(|error| FileError::io(&path, error))
                })
            })
        })?)
    }

    /// Per method the mean over seeds of the smoothed losses, step by step.
    fn curves(&self) -> Vec<(&'static str, Vec<f64>)> {
        let curve = |row: &Row| {
            let all: Vec<Vec<f64>> = self
                .runs
                .iter()
                .filter(|run| run.method == row.method)
                .map(|run| smoothed(&run.losses))
                .collect();
            let steps = all.iter().map(Vec::len).min().unwrap_or(0);
            let mean = |step: usize| {
                all.iter().map(|run| run[step]).sum::<f64>() / all.len().max(1) as f64
            };
            (row.method.name(), (0..steps).map(mean).collect())
        };
        self.rows.iter().map(curve).collect()
    }

    /// Per method megabytes and quality.
    fn points(&self) -> Vec<(&'static str, f64, f64)> {
        let quality =
            |row: &Row| row.accuracy.map_or(row.perplexity.mean, |accuracy| accuracy.mean);
        self.rows
            .iter()
            .map(|row| (row.method.name(), row.peak_bytes as f64 / 1e6, quality(row)))
            .collect()
    }

    fn page(&self) -> String {
        let mut page = format!("{TITLE}\n\n");
        page.push_str(&self.table());
        let reference = self
            .rows
            .iter()
            .find(|row| row.method.name() == "lora")
            .or(self.rows.first())
            .map_or("", |row| row.method.name());
        let spread = if self.rows.iter().any(|row| row.runs > 1) {
            " Figures with ± are mean and standard deviation over seeds."
        } else {
            ""
        };
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\nBest of a column in bold.{spread} All methods saw the same batches in the same order.\n\n\
             ![training loss]({LOSS})\n\n![quality against memory]({QUALITY})\n\n\
             | column | is |\n|---|---|\n\
             | validation | of the whole validation data, by the core's own forward pass in exact precision |\n\
             | size | bytes of the archive that was learnt: an adapter, with `full` a whole base |\n\
             | peak memory | the heap's high-water mark of the run and the base, mapped or held; bytes / 10⁶ |\n\
             | seconds | of training, without validation |\n\
             | steps | to the smoothed training loss that `{reference}` ends at with the same seed; smoothed: the mean of the last twentieth of all steps, of five at least; – where `{reference}` did not learn |\n\n\
             | run | |\n|---|---|\n"
        );
        for (name, value) in self.facts {
            let _ = writeln!(page, "| {name} | {} |", value.replace('|', "\\|"));
        }
        let _ = write!(
            page,
            "\nEvery run is in [{RESULTS}]({RESULTS}), every step's loss in [{LOSSES}]({LOSSES}).\n"
        );
        page
    }

    /// A line per method.
    pub(crate) fn table(&self) -> String {
        let quality: &[&str] = if self.classifies {
            &["accuracy", "F1", "validation loss"]
        } else {
            &["perplexity", "validation loss"]
        };
        let others = ["trained parameters", "size", "peak memory", "seconds", "steps"];
        let mut cells: Vec<Vec<String>> = self.rows.iter().map(|row| self.cells(row)).collect();
        self.embolden(&mut cells);
        let mut lines: Vec<Vec<String>> = vec![
            std::iter::once("method")
                .chain(quality.iter().copied())
                .chain(others)
                .map(String::from)
                .collect(),
        ];
        lines.extend(cells);
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut table = String::new();
        for (at, line) in lines.iter().enumerate() {
            for (cell, &width) in line.iter().zip(&widths) {
                let _ = write!(table, "| {cell:<width$} ");
            }
            table.push_str("|\n");
            if at == 0 {
                widths
                    .iter()
                    .for_each(|width| table.push_str(&format!("|{}", "-".repeat(width + 2))));
                table.push_str("|\n");
            }
        }
        table
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let shown = |spread: Spread, digits: usize| match row.runs {
            1 => format!("{:.digits$}", spread.mean),
            _ => format!("{:.digits$} ± {:.digits$}", spread.mean, spread.deviation),
        };
        let mut name = row.method.name().to_owned();
        if row.diverged > 0 {
            let _ = write!(
                name,
                " (diverged{})",
                if row.runs > 1 {
                    format!(" {} of {}", row.diverged, row.runs)
                } else {
                    String::new()
                }
            );
        }
        let mut cells = vec![name];
        match (self.classifies, row.accuracy, row.f1) {
            (true, Some(accuracy), Some(f1)) => cells.extend([shown(accuracy, 4), shown(f1, 4)]),
            (true, ..) => cells.extend(["–".into(), "–".into()]),
            _ => cells.push(shown(row.perplexity, 3)),
        }
        cells.push(shown(row.loss, 4));
        cells.push(thousands(row.trainable_parameters as u64));
        cells.push(megabytes(row.adapter_bytes));
        cells.push(megabytes(row.peak_bytes));
        cells.push(shown(row.seconds, 1));
        cells.push(match row.steps_to_loss {
            None if self.rows.iter().all(|row| row.steps_to_loss.is_none()) => "–".into(),
            None => "not reached".into(),
            Some(steps) if row.reached < row.runs => {
                format!("{:.0} ({} of {})", steps.mean, row.reached, row.runs)
            }
            Some(steps) => shown(steps, 0),
        });
        cells
    }

    /// The best of a column, where there is one.
    fn embolden(&self, cells: &mut [Vec<String>]) {
        let last = cells.first().map_or(0, |cells| cells.len() - 1);
        let quality = |row: &Row| row.accuracy.map_or(row.loss.mean, |accuracy| -accuracy.mean);
        #[allow(clippy::type_complexity, reason = "a column and how it is read")]
        let columns: [(usize, &dyn Fn(&Row) -> f64); 4] = [
            (1, &quality),
            (last - 2, &|row| row.peak_bytes as f64),
            (last - 1, &|row| row.seconds.mean),
            (last, &|row| {
                row.steps_to_loss
                    .filter(|_| row.reached == row.runs)
                    .map_or(f64::INFINITY, |steps| steps.mean)
            }),
        ];
        for (column, of) in columns {
            let best = self.rows.iter().map(of).fold(f64::INFINITY, f64::min);
            // Where all are alike none is best.
            if self.rows.iter().any(|row| of(row) > best) && best.is_finite() {
                for (row, cells) in self.rows.iter().zip(&mut *cells) {
                    if of(row) == best {
                        cells[column] = format!("**{}**", cells[column]);
                    }
                }
            }
        }
    }

    /// A line per run.
    fn results(&self) -> Result<String, Failure> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record([
            "method",
            "seed",
            "accuracy",
            "f1",
            "loss",
            "perplexity",
            "trainable_parameters",
            "adapter_bytes",
            "peak_bytes",
            "seconds",
            "steps",
            "training_loss",
            "rank",
            "diverged_at",
        ])?;
        let or_empty = |value: Option<String>| value.unwrap_or_default();
        for run in self.runs {
            csv.write_record([
                run.method.name().to_owned(),
                run.seed.to_string(),
                or_empty(run.measures.accuracy.map(|v| v.to_string())),
                or_empty(run.measures.f1.map(|v| v.to_string())),
                run.measures.loss.to_string(),
                run.measures.perplexity.to_string(),
                run.trainable_parameters.to_string(),
                run.adapter_bytes.to_string(),
                run.peak_bytes.to_string(),
                run.seconds.to_string(),
                run.losses.len().to_string(),
                or_empty(smoothed(&run.losses).last().map(f64::to_string)),
                or_empty(run.rank.map(|v| v.to_string())),
                or_empty(run.diverged.map(|v| v.to_string())),
            ])?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    /// A line per step, a column per run.
    fn losses(&self) -> Result<String, Failure> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let several = self.rows.iter().any(|row| row.runs > 1);
        let name = |run: &Run| {
            if several {
                format!("{} seed {}", run.method, run.seed)
            } else {
                run.method.to_string()
            }
        };
        csv.write_record(std::iter::once("step".to_owned()).chain(self.runs.iter().map(name)))?;
        let steps = self.runs.iter().map(|run| run.losses.len()).max().unwrap_or(0);
        for step in 0..steps {
            let loss = |run: &Run| run.losses.get(step).map(f32::to_string).unwrap_or_default();
            csv.write_record(
                std::iter::once((step + 1).to_string()).chain(self.runs.iter().map(loss)),
            )?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }
}

/// 1234567 as 1,234,567.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let group = |(at, digit): (usize, char)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

fn megabytes(bytes: u64) -> String {
    let digits = if bytes < 10_000_000 { 2 } else { 0 };
    format!("{:.digits$} MB", bytes as f64 / 1e6)
}
