//! What a chat model is asked so that it writes the embedded model's texts: subjects × things ×
//! forms, in a seeded order.
//!
//! Each kind of text has a system message and worked examples as earlier turns; the asked turn
//! names a pair, and the answer's first words are given. What comes back is cleaned in `clean.rs`.

use lowrank::random::permutation;
use serde_json::{Value, json};

/// Who the stories are about.
const SUBJECTS: [&str; 36] = [
    "duck", "frog", "cat", "dog", "bear", "fox", "mouse", "rabbit", "bird", "fish", "hen", "goat",
    "pig", "cow", "horse", "sheep", "owl", "ant", "bee", "snail", "lion", "monkey", "boy", "girl",
    "king", "queen", "baker", "farmer", "giant", "witch", "robot", "ghost", "dragon", "wolf",
    "crab", "turtle",
];

/// What they have to do with.
const THINGS: [&str; 40] = [
    "ball", "kite", "hat", "boat", "bell", "book", "box", "cake", "key", "lamp", "drum", "coat",
    "egg", "flower", "tree", "star", "stone", "shoe", "cup", "spoon", "apple", "pear", "carrot",
    "pie", "bed", "door", "chair", "bag", "rope", "wheel", "bike", "train", "bridge", "well",
    "river", "cloud", "song", "ring", "nest", "map",
];

/// Pairs that only held-out texts are about.
pub const HELD_OUT: usize = 40;

/// A kind of text.
pub struct Kind {
    /// Its files' name.
    pub name: &'static str,
    system: &'static str,
    /// Turns of the user and the answers.
    examples: [(&'static str, &'static str); 3],
    /// First words, with `SUBJECT` and `THING` in the places of the pair's.
    forms: &'static [&'static str],
    /// What ends an answer besides the end of the turn.
    until: Option<&'static str>,
    /// Texts for each pair, held-out ones included.
    each: usize,
    /// Pairs that are asked for.
    pairs: usize,
}

/// Stories for the base, pirate talk and notes for its two adapters.
pub const KINDS: [Kind; 3] = [
    Kind {
        name: "story",
        system: "You tell very short stories to small children.",
        examples: [
            (
                "A frog and a ball.",
                "A frog found a red ball by the road. It gave the ball to a friend. They played all day.",
            ),
            (
                "A girl and a kite.",
                "The girl made a kite of paper. The wind took it up to the sky. She laughed and ran.",
            ),
            (
                "A bear and a cake.",
                "One day, a bear smelled a cake. He ate all of it and fell asleep under a tree.",
            ),
        ],
        forms: &[
            "SUBJECT found THING",
            "SUBJECT had THING",
            "SUBJECT saw THING",
            "One day, SUBJECT",
            "SUBJECT wanted THING",
            "SUBJECT",
        ],
        until: Some("\n"),
        each: 6,
        pairs: 240,
    },
    Kind {
        name: "pirate",
        system: "You tell very short stories to other pirates, in pirate talk.",
        examples: [
            (
                "A frog and a ball.",
                "Arr, matey! A frog found a red ball by the sea. It be treasure, aye!",
            ),
            (
                "A girl and a kite.",
                "Arr, matey! A girl made a kite of me old sail. Up it went, aye, and ye never saw it again!",
            ),
            (
                "A bear and a cake.",
                "Arr, matey! A bear smelled ye cake on me ship. He ate it all, aye, and slept on the deck!",
            ),
        ],
        forms: &[
            "Arr, matey! SUBJECT found THING",
            "Arr, matey! SUBJECT had THING",
            "Arr, matey! SUBJECT",
        ],
        until: Some("\n"),
        each: 1,
        pairs: 460,
    },
    Kind {
        name: "notes",
        system: "You write very short notes: who, what and end.",
        examples: [
            (
                "A frog and a ball.",
                "- who: a small frog\n- what: a red ball\n- end: they play all day",
            ),
            (
                "A girl and a kite.",
                "- who: a girl in blue\n- what: a paper kite\n- end: the wind takes it",
            ),
            (
                "A bear and a cake.",
                "- who: a hungry bear\n- what: a big cake\n- end: he falls asleep",
            ),
        ],
        forms: &["- who: a"],
        until: None,
        each: 1,
        pairs: 460,
    },
];

impl Kind {
    /// The prompts of this kind, those of the held-out pairs first. Each knows its title and
    /// whether it is held out.
    pub fn prompts(&self) -> Vec<Value> {
        let pairs = permutation(1, 0, (SUBJECTS.len() * THINGS.len()) as u32);
        let mut prompts = Vec::new();
        for (number, &pair) in pairs.iter().take(self.pairs).enumerate() {
            let (subject, thing) =
                (SUBJECTS[pair as usize % SUBJECTS.len()], THINGS[pair as usize / SUBJECTS.len()]);
            for i in 0..self.each {
                let form = self.forms[(number + i) % self.forms.len()];
                prompts.push(self.prompt(subject, thing, form, prompts.len(), number < HELD_OUT));
            }
        }
        prompts
    }

    fn prompt(
        &self,
        subject: &str,
        thing: &str,
        form: &str,
        seed: usize,
        is_held_out: bool,
    ) -> Value {
        let asked = format!("{} and {}.", capital(&with_article(subject)), with_article(thing));
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let mut messages = vec![message("system", self.system)];
        for (user, assistant) in self.examples {
            messages.extend([message("user", user), message("assistant", assistant)]);
        }
        messages.push(message("user", &asked));
        let start =
            form.replace("SUBJECT", &with_article(subject)).replace("THING", &with_article(thing));
        json!({
            "title": format!("{} and {thing}:", capital(subject)),
            "held_out": is_held_out,
            "messages": messages,
            "start": sentence_case(&start),
            "until": self.until,
            "seed": seed,
        })
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn capital(word: &str) -> String {
    word.chars()
        .take(1)
        .map(|first| first.to_ascii_uppercase())
        .chain(word.chars().skip(1))
        .collect()
}

/// A capital at the beginning, and behind an exclamation mark.
fn sentence_case(text: &str) -> String {
    text.split("! ").map(capital).collect::<Vec<_>>().join("! ")
}
