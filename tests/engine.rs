//! Text in, text out: an engine gives what a session gives, keeps what it has read, and changes
//! adapters between two requests.

mod common;
mod text_base;

use std::ops::ControlFlow;
use std::path::Path;

use common::{CONFIG, adapter, all_linear, base};
use lowrank::adapter::{Adapter, AdapterSet, Choice, SharedAdapter, Slot};
use lowrank::archive::Buffer;
use lowrank::engine::{
    Bounds, End, Engine, EngineOptions, OpenReply, Prompt, Reply, ReplyError, Request, Sequence,
};
use lowrank::kernel::Precision;
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{Limits, Memory, Sampler, SamplerOptions, Serial, Session, need};
use lowrank::text::Tokenizer;

fn asset(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

/// The embedded model, exact and serial: what it writes is the same to the bit everywhere.
fn engine() -> Engine {
    let options =
        EngineOptions { threads: 1, precision: Some(Precision::Exact), ..EngineOptions::default() };
    let mut engine = Engine::open(asset("tiny.lrk"), options).unwrap();
    engine.attach_file("pirate", asset("tiny-pirate.lrk")).unwrap();
    engine.attach_file("notes", asset("tiny-notes.lrk")).unwrap();
    engine
}

/// The reply, which is also what was told piece by piece.
#[track_caller]
fn reply(engine: &mut Engine, request: &Request) -> Reply {
    let mut told = String::new();
    let found = engine
        .generate(request, |piece| {
            told += piece;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(told, found.text);
    found
}

fn request(text: &str, adapters: &[(&str, f32)]) -> Request {
    let adapters = adapters.iter().map(|&(name, weight)| (name.to_owned(), weight)).collect();
    Request { adapters, tokens: 24, ..Request::text(text) }
}

/// What a session of its own writes.
fn written(text: &str, adapters: &[(&str, f32)], sampling: SamplerOptions) -> Vec<u32> {
    let file = lowrank::archive::ArchiveFile::open(asset("tiny.lrk")).unwrap();
    let model = Llama::open(&file).unwrap();
    let archives: Vec<_> = adapters
        .iter()
        .map(|(name, _)| {
            lowrank::archive::ArchiveFile::open(asset(&format!("tiny-{name}.lrk"))).unwrap()
        })
        .collect();
    let mut slots = [Slot::EMPTY; 4];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    for ((slot, archive), (_, weight)) in (0..).zip(&archives).zip(adapters) {
        set.attach(slot, Adapter::open(archive).unwrap()).unwrap();
        choices.push(Choice { weight: *weight, ..Choice::slot(slot) });
    }
    let limits = Limits::new(128);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.select(0, &set, &choices).unwrap();
    let prompt = Tokenizer::new(&model).unwrap().encode_prompt(text).unwrap();
    session.prefill(0, &prompt).unwrap();
    let mut sampler = Sampler::new(sampling).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < 24 {
        let token = session.sample(0, &mut sampler).unwrap();
        if model.is_stop(token) {
            break;
        }
        tokens.push(token);
        session.step(&[(0, token)]).unwrap();
    }
    tokens
}

#[test]
fn an_engine_writes_what_a_session_writes_whatever_came_before() {
    let mut engine = engine();
    let warm = SamplerOptions { temperature: 0.9, seed: 7, ..SamplerOptions::default() };
    let both = [("pirate", 0.5), ("notes", 0.25)];
    type Case<'c> = (&'c str, &'c [(&'c str, f32)], SamplerOptions);
    let cases: [Case<'_>; 7] = [
        ("Duck and boat:", &[], SamplerOptions::default()),
        ("Duck and boat:", &[("pirate", 1.0)], SamplerOptions::default()),
        ("Duck and boat:", &[("notes", 1.0)], SamplerOptions::default()),
        ("Duck and a long boat:", &[("notes", 1.0)], SamplerOptions::default()),
        ("Duck", &[("notes", 1.0)], SamplerOptions::default()),
        ("Duck and boat:", &both, SamplerOptions::default()),
        ("Duck and boat:", &[], warm),
    ];
    for _ in 0..2 {
        for (text, adapters, sampling) in cases {
            let asked = Request { sampling, ..request(text, adapters) };
            assert_eq!(reply(&mut engine, &asked).tokens, written(text, adapters, sampling));
        }
    }
}

#[test]
fn lookup_writes_the_same_whatever_came_before() {
    let of = |lookup| {
        let precision = Some(Precision::Exact);
        let options = EngineOptions { lookup, threads: 1, precision, ..EngineOptions::default() };
        let mut engine = Engine::open(asset("tiny.lrk"), options).unwrap();
        engine.attach_file("pirate", asset("tiny-pirate.lrk")).unwrap();
        engine
    };
    let (mut plain, mut guessing) = (of(0), of(8));
    let text = "The duck saw the boat. The duck saw the boat. The duck";
    let again = format!("{text} saw the sea.");
    for (text, adapters) in
        [(text, &[][..]), (&again, &[]), (text, &[("pirate", 1.0)]), (text, &[]), ("A", &[])]
    {
        let asked = Request { tokens: 60, ..request(text, adapters) };
        assert_eq!(reply(&mut guessing, &asked), reply(&mut plain, &asked), "{text}");
    }
    let options = EngineOptions { lookup: 33, ..EngineOptions::default() };
    let error = Engine::open(asset("tiny.lrk"), options).unwrap_err().to_string();
    assert!(error.contains("tiny.lrk") && error.contains("the draft length"), "{error}");
}

#[test]
fn more_adapters_than_there_was_room_for_make_room() {
    let mut engine = engine();
    for name in ["a", "b", "c"] {
        engine.attach_file(name, asset("tiny-pirate.lrk")).unwrap();
    }
    let third = 1.0f32 / 4.0;
    let all = [("a", third), ("b", third), ("c", third), ("pirate", third)];
    let found = reply(&mut engine, &request("Duck and boat:", &all));
    let expected = reply(&mut engine, &request("Duck and boat:", &[("pirate", 1.0)]));
    assert_eq!(found.text, expected.text);
    assert_eq!(engine.adapters().collect::<Vec<_>>(), ["a", "b", "c", "notes", "pirate"]);
    assert!(engine.detach("a") && !engine.detach("a"));
}

#[test]
fn a_reply_ends_where_it_should() {
    let mut engine = engine();
    let free = reply(&mut engine, &request("Duck and boat:", &[]));
    assert_eq!((free.end, free.tokens.len()), (End::Length, 24));
    let stop = free.text[8..11].to_owned();
    let stops = vec!["never there".to_owned(), stop.clone()];
    let stopped = reply(&mut engine, &Request { stops, ..request("Duck and boat:", &[]) });
    assert_eq!(stopped.end, End::Stop(1));
    assert_eq!(stopped.text, free.text[..free.text.find(&stop).unwrap()]);
    let none = reply(&mut engine, &Request { tokens: 0, ..request("Duck and boat:", &[]) });
    assert_eq!((none.end, none.text.as_str()), (End::Length, ""));
    let full = reply(&mut engine, &Request { tokens: 1000, ..request("Duck and boat:", &[]) });
    assert!(matches!(full.end, End::Context | End::Turn), "{full:?}");
    let mut count = 0;
    let interrupted = engine.generate(&request("Duck and boat:", &[]), |_| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let interrupted = interrupted.unwrap();
    assert_eq!((interrupted.end, interrupted.tokens.len()), (End::Interrupted, 3));
    assert_eq!(interrupted.tokens, free.tokens[..3]);
}

#[test]
fn a_reply_that_is_asked_for_token_by_token_is_the_same_and_can_be_left() {
    let file = lowrank::archive::ArchiveFile::open(asset("tiny.lrk")).unwrap();
    let model = Llama::open(&file).unwrap();
    let tokenizer = Tokenizer::new(&model).unwrap();
    let limits = Limits::new(128);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let whole = written("Duck and boat:", &[], SamplerOptions::default());
    // A stop text that begins in the reply and never comes holds its beginning back.
    let held = tokenizer.decode(&whole[4..5], false).unwrap() + "never";
    let stops = [held.clone()];
    for asked in [0, 1, 5, 6, 24] {
        session.reset(0).unwrap();
        session.prefill(0, &tokenizer.encode_prompt("Duck and boat:").unwrap()).unwrap();
        let mut reply = OpenReply::new(&tokenizer, Bounds { tokens: 24, stops: &stops });
        let (mut told, mut sampler) = (String::new(), Sampler::greedy());
        for _ in 0..asked {
            let mut sequence = Sequence::new(&mut session, 0).unwrap();
            told += &reply.next(&mut sequence, &mut sampler).unwrap().unwrap();
        }
        let ended = if asked == 24 { Some(End::Length) } else { None };
        assert_eq!(reply.end(), ended);
        if asked == 5 {
            assert!(!held.starts_with(told.chars().next_back().unwrap()), "{told} holds it back");
        }
        told += &reply.interrupt();
        assert_eq!(reply.interrupt(), "", "it is told once");
        let mut sequence = Sequence::new(&mut session, 0).unwrap();
        assert_eq!(reply.next(&mut sequence, &mut sampler).unwrap(), None);
        let reply = reply.into_reply();
        assert_eq!(reply.end, ended.unwrap_or(End::Interrupted));
        assert_eq!(reply.tokens, whole[..asked]);
        assert_eq!(reply.text, tokenizer.decode(&whole[..asked], false).unwrap());
        assert_eq!(told, reply.text);
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_the_engine_goes_on() {
    let mut engine = engine();
    let expected = reply(&mut engine, &request("Duck and boat:", &[]));
    let mut refused =
        |request: &Request| engine.generate(request, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(
        refused(&request("a", &[("nobody", 1.0)])),
        ReplyError::UnknownAdapter(name) if name == "nobody"
    ));
    let cases = [
        (request("a", &[("pirate", f32::NAN)]), "weight"),
        (request(&"a".repeat(500), &[]), "128"),
        (Request::ask("hello"), "template"),
        (Request { prompt: Prompt::Chat(Vec::new()), ..request("a", &[]) }, "template"),
    ];
    for (request, word) in &cases {
        let error = refused(request).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let sampling = SamplerOptions { temperature: -1.0, ..SamplerOptions::default() };
    refused(&Request { sampling, ..request("a", &[]) });
    // An adapter of another base, and a file that is none.
    let other = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let made = adapter(&Llama::open(&other).unwrap(), &all_linear(&CONFIG), 4, 7);
    assert!(engine.attach("pirate", SharedAdapter::open(made).unwrap()).is_err());
    let error = engine.attach_file("pirate", asset("tiny.lrk")).unwrap_err().to_string();
    assert!(error.contains("tiny.lrk"), "{error}");
    assert_eq!(reply(&mut engine, &request("Duck and boat:", &[])), expected);

    let options = EngineOptions { context: Some(129), ..EngineOptions::default() };
    let error = Engine::open(asset("tiny.lrk"), options).unwrap_err().to_string();
    assert!(error.contains("tiny.lrk") && error.contains("129"), "{error}");
    for name in ["tiny-pirate.lrk", "none.lrk", "README.md"] {
        let error = Engine::open(asset(name), EngineOptions::default()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn an_empty_prompt_needs_a_first_token() {
    // A base that begins with no token of its own.
    let archive: Buffer = text_base::base(&text_base::tokenizer(|_| {}), "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.lrk");
    std::fs::write(&path, &archive[..]).unwrap();
    let mut engine = Engine::open(&path, EngineOptions::default()).unwrap();
    let error = engine.generate(&Request::text(""), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, ReplyError::EmptyPrompt));
    // The embedded one has such a token.
    let mut engine = self::engine();
    assert_eq!(reply(&mut engine, &request("", &[])).tokens.len(), 24);
}

#[test]
fn an_engine_goes_to_another_thread() {
    let mut engine = engine();
    let expected = reply(&mut engine, &request("Duck and boat:", &[]));
    let elsewhere = std::thread::spawn(move || reply(&mut engine, &request("Duck and boat:", &[])));
    assert_eq!(elsewhere.join().unwrap(), expected);
}
