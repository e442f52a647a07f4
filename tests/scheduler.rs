//! Many requests on one session: who comes when, what is not read twice, what ends a job.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use lowrank::adapter::SharedAdapter;
use lowrank::archive::ArchiveFile;
use lowrank::engine::{Busy, End, Event, Job, Listener, Scheduler};
use lowrank::kernel::Precision;
use lowrank::runtime::{Limits, SamplerOptions, Serial};

fn open(name: &str) -> ArchiveFile {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    ArchiveFile::open(assets.join(name)).unwrap()
}

fn start(batch: usize, waiting: usize) -> Scheduler {
    Scheduler::start(open("tiny.lrk"), Arc::new(Serial), waiting, |model, executor| Limits {
        batch,
        prefill_chunk: 8,
        precision: Precision::Exact,
        ..Limits::for_model(model, 128, executor)
    })
    .unwrap()
}

fn adapter(name: &str) -> Arc<SharedAdapter> {
    Arc::new(SharedAdapter::open(open(&format!("tiny-{name}.lrk"))).unwrap())
}

/// A job whose events come with `number`.
fn job(
    scheduler: &Scheduler,
    prompt: &str,
    adapter: Option<&Arc<SharedAdapter>>,
    tokens: usize,
    (number, events): (usize, &Sender<(usize, Event)>),
) -> Job {
    let events = events.clone();
    Job {
        prompt: scheduler.tokenizer().encode_prompt(prompt).unwrap(),
        adapters: adapter.map(|adapter| (Arc::clone(adapter), 1.0)).into_iter().collect(),
        tokens,
        stops: Vec::new(),
        sampling: SamplerOptions::default(),
        listener: Box::new(move |event| match events.send((number, event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }),
    }
}

/// Text, end and known tokens of the only job.
fn reply(events: &Receiver<(usize, Event)>) -> (String, End, usize) {
    let (mut text, mut read) = (String::new(), 0);
    for (_, event) in events {
        match event {
            Event::Started { known } => read = known,
            Event::Text(new) => text += &new,
            Event::Ended { end, .. } => return (text, end, read),
            other => panic!("{other:?}"),
        }
    }
    panic!("no end");
}

const LONG: &str = "Once upon a time there was a duck who had a boat, and the boat was";

#[test]
fn a_beginning_that_a_busy_sequence_has_read_is_copied() {
    let scheduler = start(2, 8);
    let (sender, alone) = channel();
    let text = format!("{LONG} blue");
    scheduler.submit(job(&scheduler, &text, None, 20, (0, &sender))).unwrap();
    let (expected, _, known) = reply(&alone);
    assert_eq!(known, 0);

    let scheduler = start(2, 8);
    let (first, busy) = channel();
    // Told on the scheduler's thread: the second job is there while the first one is written.
    let (asked, begun) = channel();
    let mut told = Some(asked);
    let mut long = job(&scheduler, LONG, None, 80, (0, &first));
    let mut pass_on = long.listener;
    long.listener = Box::new(move |event| {
        if matches!(event, Event::Text(_))
            && let Some(told) = told.take()
        {
            told.send(()).unwrap();
        }
        pass_on.hear(event)
    });
    scheduler.submit(long).unwrap();
    begun.recv().unwrap();
    let (second, copied) = channel();
    scheduler.submit(job(&scheduler, &text, None, 20, (1, &second))).unwrap();
    let (found, _, known) = reply(&copied);
    assert_eq!(found, expected);
    assert!(known >= 16, "{known} tokens were copied");
    reply(&busy);
}

/// With the products that round activations too: a reply may not depend on what of its prompt is still
/// in a cache, nor on where the prompt is cut into passes.
#[test]
fn what_was_read_before_changes_no_reply() {
    let start = |prefill_chunk| {
        Scheduler::start(open("tiny.lrk"), Arc::new(Serial), 8, |model, executor| Limits {
            batch: 1,
            prefill_chunk,
            precision: Precision::Fast,
            ..Limits::for_model(model, 128, executor)
        })
        .unwrap()
    };
    let ask = |scheduler: &Scheduler, prompt: &str| {
        let (sender, events) = channel();
        scheduler.submit(job(scheduler, prompt, None, 30, (0, &sender))).unwrap();
        reply(&events)
    };
    let length = LONG.len();
    for prompt in [LONG, &LONG[..length - 1], &LONG[..length - 2], &LONG[..17], "Du", "D"] {
        let (expected, ..) = ask(&start(128), prompt);
        for chunk in [3, 4, 7, 8, 16] {
            let scheduler = start(chunk);
            let (first, _, none) = ask(&scheduler, prompt);
            let (again, _, known) = ask(&scheduler, prompt);
            assert_eq!((&first, none), (&expected, 0), "{prompt} by {chunk}");
            assert_eq!(again, expected, "{prompt} by {chunk}, {known} known");
        }
    }
}

#[test]
fn a_busy_adapter_does_not_keep_out_another() {
    let scheduler = start(2, 32);
    let (pirate, notes) = (adapter("pirate"), adapter("notes"));
    let (sender, events) = channel();
    for number in 0..10 {
        scheduler.submit(job(&scheduler, "Duck", Some(&pirate), 40, (number, &sender))).unwrap();
    }
    scheduler.submit(job(&scheduler, "Duck", Some(&notes), 5, (10, &sender))).unwrap();
    drop(sender);
    let started: Vec<usize> = events
        .iter()
        .filter_map(|(number, event)| matches!(event, Event::Started { .. }).then_some(number))
        .collect();
    let place = started.iter().position(|&number| number == 10).unwrap();
    assert_eq!(started.len(), 11);
    assert!(place <= 4, "it came as number {place}, ten others had been there before it");
}

#[test]
fn who_no_longer_listens_frees_the_place() {
    let scheduler = start(1, 4);
    let (sender, events) = channel();
    drop(events);
    scheduler.submit(job(&scheduler, "Duck", None, 100, (0, &sender))).unwrap();
    let (sender, events) = channel();
    scheduler.submit(job(&scheduler, "Duck", None, 3, (1, &sender))).unwrap();
    assert_eq!(reply(&events).1, End::Length);
}

#[test]
fn jobs_that_cannot_run_are_told_why_and_others_go_on() {
    let scheduler = start(2, 8);
    let (sender, events) = channel();
    let mut empty = job(&scheduler, "Duck", None, 3, (0, &sender));
    empty.prompt.clear();
    let mut long = job(&scheduler, "Duck", None, 3, (1, &sender));
    long.prompt = vec![5; 129];
    let mut hot = job(&scheduler, "Duck", None, 3, (2, &sender));
    hot.sampling.temperature = f32::NAN;
    let mut unknown = job(&scheduler, "Duck", None, 3, (3, &sender));
    unknown.prompt.push(u32::MAX);
    let mut many = job(&scheduler, "Duck", None, 3, (4, &sender));
    many.adapters = vec![(adapter("pirate"), 1.0); 9];
    for job in [empty, long, hot, unknown, many] {
        scheduler.submit(job).unwrap();
    }
    scheduler.submit(job(&scheduler, "Duck", None, 3, (5, &sender))).unwrap();
    drop(sender);
    let mut failed = Vec::new();
    let mut ended = Vec::new();
    for (number, event) in &events {
        match event {
            Event::Failed(error) => {
                assert!(!error.to_string().is_empty());
                failed.push(number);
            }
            Event::Ended { .. } => ended.push(number),
            _ => {}
        }
    }
    failed.sort_unstable();
    assert_eq!((failed, ended), (vec![0, 1, 2, 3, 4], vec![5]));
}

#[test]
fn an_end_answers_what_was_taken_and_takes_no_more() {
    let scheduler = start(1, 8);
    let (sender, events) = channel();
    for number in 0..4 {
        scheduler.submit(job(&scheduler, "Duck", None, 20, (number, &sender))).unwrap();
    }
    let refused = job(&scheduler, "Duck", None, 1, (9, &sender));
    scheduler.finish();
    assert_eq!(scheduler.submit(refused), Err(Busy::Ending));
    drop(sender);
    let ended = events.iter().filter(|(_, event)| matches!(event, Event::Ended { .. }));
    assert_eq!(ended.count(), 4);
}

/// A listener that can be told to be gone; it tells what it hears, and waits to be let on after the
/// first text.
struct Client {
    heard: Sender<Event>,
    go_on: Option<Receiver<()>>,
    is_gone: Arc<AtomicBool>,
}

impl Listener for Client {
    fn hear(&mut self, event: Event) -> ControlFlow<()> {
        let is_text = matches!(event, Event::Text(_));
        self.heard.send(event).unwrap();
        if is_text && let Some(go_on) = self.go_on.take() {
            go_on.recv().unwrap();
        }
        ControlFlow::Continue(())
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }
}

#[test]
fn who_is_gone_leaves_the_queue_and_the_sequence() {
    let scheduler = start(1, 1);
    let client = |go_on| {
        let ((heard, hears), is_gone) = (channel(), Arc::new(AtomicBool::new(false)));
        (Client { heard, go_on, is_gone: Arc::clone(&is_gone) }, hears, is_gone)
    };
    let submit = |client: Client, tokens| {
        let (unused, _) = channel();
        let job = job(&scheduler, "Duck", None, tokens, (0, &unused));
        scheduler.submit(Job { listener: Box::new(client), ..job })
    };
    let (go_on, wait) = channel();
    let (busy, busy_hears, busy_is_gone) = client(Some(wait));
    submit(busy, 100).unwrap();
    while !matches!(busy_hears.recv().unwrap(), Event::Text(_)) {}
    let (left, left_hears, left_is_gone) = client(None);
    submit(left, 100).unwrap();
    assert!(matches!(submit(client(None).0, 1), Err(Busy::Full { waiting: 1 })));
    let both = (0..3).map(|number| {
        let (unused, _) = channel();
        job(&scheduler, "Duck", None, 1, (number, &unused))
    });
    let most = scheduler.submit_all(both.collect());
    assert_eq!(most, Err(Busy::TooMany { asked: 3, most: 2 }));
    left_is_gone.store(true, Ordering::Relaxed);
    busy_is_gone.store(true, Ordering::Relaxed);
    go_on.send(()).unwrap();
    // Both listeners are dropped, and heard nothing more.
    assert!(left_hears.recv().is_err());
    assert!(busy_hears.recv().is_err());
    let (last, hears, _) = client(None);
    submit(last, 3).unwrap();
    let ended = hears.iter().any(|event| matches!(event, Event::Ended { tokens: 3, .. }));
    assert!(ended, "there is room again");
    scheduler.finish();
    assert_eq!((scheduler.load().running, scheduler.load().waiting), (0, 0));
}
