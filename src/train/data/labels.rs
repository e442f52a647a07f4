//! The labels of a file: their names, their numbers, how often each is there.

use std::collections::HashMap;

/// Names that a message lists before it says how many more there are.
pub(super) const LISTED: usize = 20;

/// Names and their indices in the order of their first appearance.
#[derive(Default)]
pub(super) struct Names {
    indices: HashMap<String, u32>,
    names: Vec<String>,
    counts: Vec<u64>,
    are_given: bool,
}

/// Names in their final order.
pub(super) struct Sorted {
    pub(super) names: Vec<String>,
    /// Examples of each.
    pub(super) counts: Vec<u64>,
    /// For each old index the new one.
    pub(super) new: Vec<u32>,
}

impl Names {
    /// Those of a model that is trained already: there are no others.
    pub(super) fn given(names: &[String]) -> Self {
        Self {
            indices: names.iter().cloned().zip(0..).collect(),
            names: names.to_vec(),
            counts: vec![0; names.len()],
            are_given: true,
        }
    }

    /// The names so far.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Is this one not among those given?
    pub(super) fn is_foreign(&self, name: &str) -> bool {
        self.are_given && !self.indices.contains_key(name)
    }

    /// The index of an example's label.
    pub(super) fn index(&mut self, name: &str) -> Result<u32, String> {
        if let Some(&index) = self.indices.get(name) {
            self.counts[index as usize] += 1;
            return Ok(index);
        }
        if self.are_given {
            return Err(format!(
                "label {name:?} is not one of the training data's {}: {}",
                self.names.len(),
                listed(&self.names)
            ));
        }
        let index = u32::try_from(self.names.len()).map_err(|_| "too many labels")?;
        self.indices.insert(name.to_owned(), index);
        self.names.push(name.to_owned());
        self.counts.push(1);
        Ok(index)
    }

    /// The name that appeared first, if only one example has it and the names were not given.
    pub(super) fn lonely_first(&self) -> Option<&str> {
        let once = !self.are_given && self.counts.first() == Some(&1);
        self.names.first().filter(|_| once).map(String::as_str)
    }

    /// Forgets the name that appeared first; all others move up.
    pub(super) fn remove_first(&mut self) {
        self.names.remove(0);
        self.counts.remove(0);
    }

    /// The names as numbers if all are, else in the order of their letters; given ones as they are.
    pub(super) fn sorted(self) -> Sorted {
        if self.are_given {
            let new = (0..).take(self.names.len()).collect();
            return Sorted { names: self.names, counts: self.counts, new };
        }
        let mut order: Vec<u32> = (0..).take(self.names.len()).collect();
        let numbers: Option<Vec<i64>> = self.names.iter().map(|name| name.parse().ok()).collect();
        let name = |i: &u32| self.names[*i as usize].as_str();
        match &numbers {
            Some(numbers) => order.sort_by_key(|i| (numbers[*i as usize], name(i))),
            None => order.sort_by_key(name),
        }
        let mut new = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&old, index)| new[old as usize] = index);
        Sorted {
            names: order.iter().map(|i| name(i).to_owned()).collect(),
            counts: order.iter().map(|&i| self.counts[i as usize]).collect(),
            new,
        }
    }
}

/// The first names, separated by commas.
fn listed(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
    let more = if names.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", first.join(", "))
}
