//! The HTTP server: with exact products every reply is the one that the library gives alone;
//! adapters come, go and change; what is asked for and not done is refused in OpenAI's form.

mod http_server;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use http_server::{PROMPTS, alone, asset, engine_options, start};
use lowrank::adapter::SharedAdapter;
use lowrank::archive::ArchiveFile;
use lowrank::engine::{Engine, Request};
use serde_json::{Value, json};

#[test]
fn replies_are_those_of_the_library_alone_whatever_runs_beside_them() {
    let server = start(|_, _| ());
    let models = [("tiny", None), ("pirate", Some("pirate")), ("notes", Some("notes"))];
    scope(|scope| {
        for client in 0..6 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..6 {
                    let (model, adapter) = models[(client + round) % models.len()];
                    let prompt = PROMPTS[(client * round) % PROMPTS.len()];
                    let tokens = 4 + (client * 7 + round * 5) % 40;
                    let reply = server.complete(model, prompt, tokens);
                    let text = reply["choices"][0]["text"].as_str().unwrap();
                    assert_eq!(text, alone(adapter, prompt, tokens), "{model}: {prompt}");
                }
            });
        }
    });
    server.finish();
}

#[test]
fn events_are_the_reply_in_pieces() {
    let server = start(|_, _| ());
    let whole = server.complete("pirate", "Once upon a time", 30);
    let body = json!({
        "model": "pirate", "prompt": "Once upon a time", "max_tokens": 30, "temperature": 0,
        "stream": true, "stream_options": { "include_usage": true },
    });
    let (status, text) = server.raw("POST", "/v1/completions", "", body.to_string().as_bytes());
    assert_eq!(status, 200);
    let mut data: Vec<&str> = text
        .split("\n\n")
        .filter_map(|event| event.trim_start_matches('\n').strip_prefix("data: "))
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    let chunks: Vec<Value> = data.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    let told: String =
        chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(told, whole["choices"][0]["text"].as_str().unwrap());
    assert!(chunks.len() > 10, "it comes in pieces");
    let ends: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(ends.iter().filter(|end| !end.is_null()).count(), 1);
    assert_eq!(ends.last(), Some(&&whole["choices"][0]["finish_reason"]));
    server.finish();
}

#[test]
fn a_prompt_that_was_read_is_not_read_again_and_gives_the_same() {
    let server = start(|_, _| ());
    let prompt = "Once upon a time there was a duck who had a boat and";
    let first = server.complete("notes", prompt, 12);
    let again = server.complete("notes", prompt, 12);
    let cached = |reply: &Value| reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let read = again["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!((cached(&first), cached(&again)), (Some(0), Some(read - 3)));
    assert_eq!(first["choices"], again["choices"]);
    // What was read under one adapter is nothing to another, nor to the base.
    for (model, adapter) in [("pirate", Some("pirate")), ("tiny", None)] {
        let other = server.complete(model, prompt, 12);
        assert_eq!(cached(&other), Some(0), "{model}");
        assert_eq!(other["choices"][0]["text"], alone(adapter, prompt, 12), "{model}");
    }
    server.finish();
}

#[test]
fn several_prompts_and_replies_keep_their_places_and_seeds_repeat() {
    let server = start(|_, _| ());
    let body = json!({
        "model": "tiny", "prompt": PROMPTS, "n": 2, "max_tokens": 10, "temperature": 0.9, "seed": 7,
    });
    let (_, first) = server.post("/v1/completions", &body);
    let (_, again) = server.post("/v1/completions", &body);
    let texts = |reply: &Value| -> Vec<String> {
        let choices = reply["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&first).len(), 8);
    assert_eq!(texts(&first), texts(&again));
    let greedy = json!({ "prompt": PROMPTS, "max_tokens": 10, "temperature": 0 });
    let (_, greedy) = server.post("/v1/completions", &greedy);
    for (prompt, text) in PROMPTS.iter().zip(texts(&greedy)) {
        assert_eq!(text, alone(None, prompt, 10));
    }
    let stop = json!({ "prompt": "Duck", "max_tokens": 60, "temperature": 0, "stop": "a" });
    let (_, stopped) = server.post("/v1/completions", &stop);
    let whole = alone(None, "Duck", 60);
    assert_eq!(stopped["choices"][0]["text"].as_str(), whole.split('a').next());
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    server.finish();
}

#[test]
fn adapters_are_replaced_while_requests_run_and_each_reply_has_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pirate", "notes"] {
        let from = asset(&format!("tiny-{name}.lrk"));
        std::fs::copy(from, folder.path().join(format!("{name}.lrk"))).unwrap();
    }
    let server = start(|options, _| options.folder = Some(folder.path().to_owned()));
    let load = |name: &str, path: &str, more: Value| {
        let mut body = json!({ "lora_name": name, "lora_path": path });
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        server.post("/v1/load_lora_adapter", &body)
    };
    let (status, said) = load("style", "pirate.lrk", json!({}));
    assert_eq!(
        (status, said.as_str().unwrap()),
        (200, "Success: LoRA adapter 'style' added successfully.")
    );
    assert_eq!(load("style", "notes.lrk", json!({})).0, 400, "it is there already");
    let generation = || {
        let (_, list) = server.get("/v1/lora_adapters");
        let adapters = list["data"].as_array().unwrap().clone();
        let found = adapters.iter().find(|adapter| adapter["name"] == "style");
        found.map(|adapter| adapter["generation"].as_u64().unwrap())
    };
    let first = generation().unwrap();
    assert_eq!(load("style", "notes.lrk", json!({ "expected_generation": first + 9 })).0, 409);
    let expected: Vec<String> =
        ["pirate", "notes"].map(|name| alone(Some(name), "Duck", 20)).to_vec();
    assert_ne!(expected[0], expected[1]);
    let done = AtomicBool::new(false);
    scope(|scope| {
        let swaps = scope.spawn(|| {
            let mut swaps = 0;
            while !done.load(Ordering::Relaxed) {
                let path = ["notes.lrk", "pirate.lrk"][swaps % 2];
                assert_eq!(load("style", path, json!({ "load_inplace": true })).0, 200);
                swaps += 1;
            }
            swaps
        });
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..15 {
                        let reply = server.complete("style", "Duck", 20);
                        let text = reply["choices"][0]["text"].as_str().unwrap().to_owned();
                        assert!(expected.contains(&text), "{text}");
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(swaps.join().unwrap() > 2);
    });
    assert!(generation().unwrap() > first);
    let unload = |body: &Value| server.post("/v1/unload_lora_adapter", body).0;
    assert_eq!(unload(&json!({ "lora_name": "style", "expected_generation": first })), 409);
    assert_eq!(unload(&json!({ "lora_name": "style" })), 200);
    assert_eq!(unload(&json!({ "lora_name": "style" })), 404);
    assert_eq!(generation(), None);
    // Unloaded is unloaded, though the folder has a file of the name.
    let ask = || server.post("/v1/completions", &json!({ "model": "notes", "prompt": "a" })).0;
    assert_eq!(ask(), 200);
    assert_eq!(unload(&json!({ "lora_name": "notes" })), 200);
    assert_eq!(ask(), 404);
    assert_eq!(load("notes", "notes.lrk", json!({})).0, 200);
    assert_eq!(ask(), 200);
    // A file that is emptied and written again in place under requests that use it disturbs nobody.
    let path = folder.path().join("notes.lrk");
    let bytes = std::fs::read(&path).unwrap();
    for part in [0, bytes.len() / 2, bytes.len()] {
        std::fs::write(&path, &bytes[..part]).unwrap();
        let reply = server.complete("notes", "Duck", 20);
        assert_eq!(reply["choices"][0]["text"].as_str(), Some(expected[1].as_str()));
    }
    // What comes into the folder later has a name at once.
    std::fs::copy(asset("tiny-notes.lrk"), folder.path().join("late.lrk")).unwrap();
    let reply = server.complete("late", "Duck", 20);
    assert_eq!(reply["choices"][0]["text"].as_str(), Some(expected[1].as_str()));
    for path in ["../outside.lrk", "/etc/passwd", "none.lrk", "", "late.lrk/.."] {
        let (status, said) = load("x", path, json!({}));
        assert_eq!(status, 400, "{path}: {said}");
        let place = folder.path().to_string_lossy().into_owned();
        assert!(!said.to_string().contains(&place), "no path leaks: {said}");
    }
    std::fs::write(folder.path().join("broken.lrk"), b"nothing").unwrap();
    let (status, said) =
        server.post("/v1/completions", &json!({ "model": "broken", "prompt": "a" }));
    assert_eq!((status, &said["error"]["code"]), (500, &json!("adapter_unusable")), "{said}");
    assert!(said["error"]["message"].as_str().unwrap().contains("broken.lrk"), "{said}");
    server.finish();
}

#[test]
fn weighted_adapters_of_one_request_add_up() {
    let server = start(|_, _| ());
    let list = json!([{ "name": "pirate", "weight": 0.5 }, { "name": "notes", "weight": 0.5 }]);
    let body = json!({
        "model": "tiny", "adapters": list, "prompt": "Duck", "max_tokens": 20, "temperature": 0,
    });
    let (status, reply) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{reply}");
    let options = engine_options();
    let mut engine = Engine::open(asset("tiny.lrk"), options).unwrap();
    for name in ["pirate", "notes"] {
        let file = ArchiveFile::open(asset(&format!("tiny-{name}.lrk"))).unwrap();
        engine.attach(name, SharedAdapter::open(file).unwrap()).unwrap();
    }
    let adapters = vec![("pirate".to_owned(), 0.5), ("notes".to_owned(), 0.5)];
    let request = Request { tokens: 20, adapters, ..Request::text("Duck") };
    let expected = engine.generate(&request, |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(reply["choices"][0]["text"], expected.text);
    server.finish();
}

#[test]
fn what_is_wrong_is_said_in_openais_form() {
    let server = start(|options, waiting| {
        options.keys = vec!["for asking".to_owned()];
        options.admin_keys = vec!["for changes".to_owned()];
        *waiting = 0;
    });
    let ask = "authorization: Bearer for asking\r\n";
    let error = |path: &str, headers: &str, body: &[u8]| {
        let (status, text) = server.raw("POST", path, headers, body);
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        let error = &said["error"];
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{said}");
        assert!(error["type"].is_string() && error["code"].is_string(), "{said}");
        (status, error["code"].as_str().unwrap().to_owned(), error["param"].clone())
    };
    let path = "/v1/completions";
    for (body, status, code, param) in [
        (json!({ "model": "nobody", "prompt": "a" }), 404, "model_not_found", None),
        (json!({ "prompt": "a", "logprobs": 3 }), 400, "unsupported_parameter", Some("logprobs")),
        (json!({ "prompt": "a", "colour": "red" }), 400, "unsupported_parameter", Some("colour")),
        (
            json!({ "prompt": "a", "truncate_prompt_tokens": 1 }),
            400,
            "unsupported_parameter",
            Some("truncate_prompt_tokens"),
        ),
        (
            json!({ "prompt": "a", "stream": true, "stream_options": { "every": 2 } }),
            400,
            "unsupported_parameter",
            Some("every"),
        ),
        (json!({ "prompt": "a", "temperature": 9 }), 400, "invalid_value", Some("temperature")),
        (json!({ "prompt": "a", "max_tokens": 0 }), 400, "invalid_value", Some("max_tokens")),
        (json!({ "prompt": "a", "n": 1000 }), 400, "invalid_value", Some("n")),
        (json!({ "prompt": "a", "stop": [""] }), 400, "invalid_value", Some("stop")),
        (
            json!({ "prompt": "a", "stream_options": {} }),
            400,
            "invalid_value",
            Some("stream_options"),
        ),
        (json!({ "prompt": [] }), 400, "invalid_value", Some("prompt")),
        (json!({ "prompt": [[1], "a", {}] }), 400, "invalid_value", Some("prompt")),
        (json!({ "prompt": [4_000_000] }), 400, "invalid_value", None),
        (json!({ "prompt": "a ".repeat(500) }), 400, "context_length_exceeded", None),
        (
            json!({ "model": "pirate", "adapters": [], "prompt": "a" }),
            400,
            "invalid_value",
            Some("adapters"),
        ),
        (
            json!({ "adapters": [{ "name": "pirate", "wieght": 0 }], "prompt": "a" }),
            400,
            "unsupported_parameter",
            Some("wieght"),
        ),
        (json!({}), 400, "invalid_value", Some("prompt")),
        (json!([]), 400, "invalid_json", None),
    ] {
        let expected = (status, code.to_owned(), param.map_or(Value::Null, Value::from));
        assert_eq!(error(path, ask, body.to_string().as_bytes()), expected, "{body}");
    }
    assert_eq!(error(path, ask, b"{").1, "invalid_json");
    assert_eq!(error(path, ask, &[b' '; 5 << 20]).0, 413);
    assert_eq!(error("/v1/nothing", ask, b"{}").0, 404);
    assert_eq!(error("/v1/models", ask, b"{}").0, 405);
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    let (status, _, param) = error("/v1/chat/completions", ask, chat.as_bytes());
    assert_eq!((status, param), (400, "messages".into()), "this base has no chat template");
    for headers in ["", "authorization: Bearer wrong\r\n", "authorization: for asking\r\n"] {
        assert_eq!(error(path, headers, b"{}").0, 401);
    }
    let load = "/v1/load_lora_adapter";
    assert_eq!(error(load, ask, b"{}").0, 401, "a key for asking changes nothing");
    let change = "authorization: Bearer for changes\r\n";
    let body = json!({ "lora_name": "x", "lora_path": "x.lrk" }).to_string();
    assert_eq!(error(load, change, body.as_bytes()).0, 403, "there is no folder");
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(server.get(path).0, 200, "{path} needs no key");
    }
    let answer =
        server.raw("POST", path, &format!("{ask}x-request-id: 17\r\n"), b"{\"prompt\": \"a\"}");
    assert_eq!(answer.0, 200, "{}", answer.1);
    server.finish();
}

#[test]
fn who_comes_when_all_places_are_taken_is_told_so_and_an_end_answers_what_was_asked() {
    let server = start(|_, waiting| *waiting = 1);
    let long = json!({ "prompt": "Duck", "max_tokens": 120, "temperature": 0 });
    let answers: Vec<(u16, Value)> = scope(|scope| {
        let ask = || server.post("/v1/completions", &long);
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let expected = alone(None, "Duck", 120);
    let mut answered = 0;
    for (status, said) in answers {
        match status {
            200 => {
                answered += 1;
                assert_eq!(said["choices"][0]["text"], expected);
            }
            _ => assert_eq!((status, &said["error"]["code"]), (429, &json!("queue_full"))),
        }
    }
    assert!(answered >= 4, "three run, one waits");
    // A request that is under way when the end comes is answered.
    let address = server.address;
    let mut stream = TcpStream::connect(address).unwrap();
    let body = long.to_string();
    let length = body.len();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
    while server
        .get("/metrics")
        .1
        .as_str()
        .is_some_and(|text| text.contains("running{model_name=\"tiny\"} 0"))
    {
        std::thread::yield_now();
        if server.complete("tiny", "A", 1)["usage"]["completion_tokens"] == 1 {
            break;
        }
    }
    server.finish();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}
