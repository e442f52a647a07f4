//! What clients and files can do to the HTTP server: slow and vanished clients end, long texts and
//! bodies are refused before they cost anything, and nothing outside the folder is served.

mod http_server;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread::spawn;
use std::time::Duration;

use http_server::{CONTEXT, Server, asset, start};
use lowrank::adapter::SharedAdapter;
use lowrank::archive::ArchiveFile;
use lowrank::export::export_peft;
use lowrank::model::llama::Llama;
use serde_json::{Value, json};

/// Long for a test, short beside the 30 s that clients have.
const PATIENCE: Duration = Duration::from_millis(400);

fn connect(server: &Server, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    stream
}

/// What comes until the server closes the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_client_that_does_nothing_is_let_go_of_and_the_end_does_not_wait_for_it() {
    let server = start(|options, _| options.patience = PATIENCE);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: test\r\n";
    let idle = connect(&server, "GET /health HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(rest(idle).starts_with("HTTP/1.1 200"), "kept alive until it does nothing");
    let no_body = connect(&server, &format!("{head}content-length: 20\r\n\r\n{{"));
    assert!(rest(no_body).starts_with("HTTP/1.1 408"));
    rest(connect(&server, head));
    rest(connect(&server, ""));
    // It asks and asks, and reads no answer.
    let mut deaf = connect(&server, "");
    deaf.set_write_timeout(Some(PATIENCE / 4)).unwrap();
    while deaf.write_all(b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n").is_ok() {}
    let half = [connect(&server, head), connect(&server, "")];
    let (told, ended) = mpsc::channel();
    spawn(move || {
        server.finish();
        told.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("the server ends");
    drop((deaf, half));
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let server = start(|_, _| ());
    // The body never comes, and need not.
    let head = "POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: 2000000\r\n\r\n";
    let mut stream = connect(&server, head);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    let long = "a".repeat(CONTEXT * 64 + 1);
    let chat = json!({ "messages": [{ "role": "user", "content": long }] });
    for (path, body) in [
        ("/v1/completions", json!({ "prompt": long })),
        ("/v1/completions", json!({ "prompt": ["a", long] })),
        ("/v1/chat/completions", chat.clone()),
        ("/tokenize", json!({ "prompt": long })),
        ("/tokenize", chat),
    ] {
        let (status, said) = server.post(path, &body);
        let code = &said["error"]["code"];
        assert_eq!((status, code), (400, &json!("context_length_exceeded")), "{path}");
    }
    // Nor is anything long repeated.
    for body in [
        json!({ "model": "x".repeat(900_000), "prompt": "a" }),
        json!({ "x".repeat(900_000): 1, "prompt": "a" }),
        json!({ "temperature": "x".repeat(900_000), "prompt": "a" }),
    ] {
        let (status, said) = server.post("/v1/completions", &body);
        assert!(matches!(status, 400 | 404) && said.to_string().len() < 4000, "{status}");
    }
    server.finish();
}

#[test]
fn more_replies_than_ever_fit_are_refused_for_good() {
    let server = start(|_, waiting| *waiting = 2);
    let ask = |n: u64| {
        let body = json!({ "prompt": "a", "n": n, "max_tokens": 1 });
        server.post("/v1/completions", &body)
    };
    assert_eq!(ask(5).0, 200, "three run, two wait");
    let (status, said) = ask(6);
    assert_eq!((status, &said["error"]["code"]), (400, &json!("too_many_replies")), "{said}");
    server.finish();
}

#[test]
fn fields_that_ask_for_nothing_pass_and_others_do_not() {
    let server = start(|_, _| ());
    let ask = |key: &str, value: &Value| {
        let (status, said) =
            server.post("/v1/completions", &json!({ "prompt": "a", "max_tokens": 1, key: value }));
        assert!(status == 200 || said["error"]["param"] == key, "{said}");
        status
    };
    for (key, value) in [
        ("frequency_penalty", json!(0)),
        ("frequency_penalty", json!(null)),
        ("logit_bias", json!({})),
        ("logprobs", json!(false)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("user", json!("somebody")),
        ("skip_special_tokens", json!(true)),
        ("anything", json!(null)),
    ] {
        assert_eq!(ask(key, &value), 200, "{key}: {value}");
    }
    for (key, value) in [
        ("frequency_penalty", json!([])),
        ("frequency_penalty", json!(0.5)),
        ("logit_bias", json!([])),
        ("logprobs", json!(0)),
        ("tools", json!([{}])),
        ("tool_choice", json!("required")),
        ("skip_special_tokens", json!(false)),
        ("anything", json!(false)),
        ("top_p", json!(0)),
        ("repetition_penalty", json!(0)),
    ] {
        assert_eq!(ask(key, &value), 400, "{key}: {value}");
    }
    let (_, said) = server.post("/v1/completions", &json!({ "prompt": "a", "top_p": 0 }));
    let expected = "top_p: 0, a number above 0, at most 1 was expected";
    assert_eq!(said["error"]["message"], expected);
    let tokens = |ids: Value| server.post("/detokenize", &json!({ "tokens": ids })).0;
    assert_eq!(tokens(json!([1, 2])), 200);
    assert_eq!((tokens(json!([1, 999_999])), tokens(json!([-1]))), (400, 400));
    server.finish();
}

#[test]
fn a_key_is_read_as_the_standard_says() {
    let server = start(|options, _| options.keys = vec!["secret".to_owned()]);
    for (scheme, status) in
        [("Bearer secret", 200), ("bearer secret", 200), ("BEARER  secret", 200), ("secret", 401)]
    {
        let headers = format!("authorization: {scheme}\r\n");
        assert_eq!(server.raw("GET", "/v1/models", &headers, b"").0, status, "{scheme}");
    }
    server.finish();
}

#[test]
fn a_page_of_another_place_is_refused() {
    let server = start(|_, _| ());
    let ask = |origin: &str| {
        let headers = format!("origin: {origin}\r\n");
        let body = json!({ "lora_name": "pirate" }).to_string();
        server.raw("POST", "/v1/unload_lora_adapter", &headers, body.as_bytes()).0
    };
    assert_eq!((ask("http://evil.example"), ask("null")), (403, 403));
    assert_eq!(server.post("/v1/completions", &json!({ "model": "pirate", "prompt": "a" })).0, 200);
    server.finish();
}

#[cfg(unix)]
#[test]
fn the_folder_serves_what_lies_in_it_and_nothing_else() {
    use std::os::unix::fs::symlink;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = |place: &std::path::Path| {
        std::fs::copy(asset("tiny-notes.lrk"), place).unwrap();
    };
    let within = |name: &str| folder.path().join(name);
    copy(&within("real.lrk"));
    copy(&within(".hidden.lrk"));
    copy(&outside.path().join("foreign.lrk"));
    std::fs::create_dir(within("directory.lrk")).unwrap();
    symlink(outside.path().join("foreign.lrk"), within("away.lrk")).unwrap();
    symlink(within("real.lrk"), within("other.lrk")).unwrap();
    copy(&within("gone.lrk"));
    let half = &std::fs::read(within("real.lrk")).unwrap()[..3000];
    std::fs::write(within("damaged.lrk"), half).unwrap();
    broken_peft(&within("peft"));
    let server = start(|options, _| options.folder = Some(folder.path().to_owned()));
    let ask = |name: &str| {
        let (status, said) =
            server.post("/v1/completions", &json!({ "model": name, "prompt": "a" }));
        (status, said.to_string())
    };
    for (name, status) in [
        ("real", 200),
        ("other", 200),
        ("away", 404),
        (".hidden", 404),
        ("directory", 404),
        ("../real", 404),
        ("real.lrk", 404),
    ] {
        assert_eq!(ask(name).0, status, "{name}");
    }
    let load = |name: &str, path: &str| {
        let body = json!({ "lora_name": name, "lora_path": path });
        server.post("/v1/load_lora_adapter", &body).0
    };
    assert_eq!(load("away", "away.lrk"), 400);
    for name in ["", " ", ".", "..", " x", "x ", "tiny"] {
        assert_eq!(load(name, "real.lrk"), 400, "{name:?}");
    }
    assert_eq!(load("team/style", "real.lrk"), 200);
    assert_eq!(ask("team/style").0, 200);
    // Taken away before anybody asked.
    std::fs::remove_file(within("gone.lrk")).unwrap();
    assert_eq!(ask("gone").0, 404);
    // Damaged: nothing that who asks could mend, and nothing about where it lies.
    for name in ["damaged", "peft"] {
        let (status, said) = ask(name);
        assert_eq!(status, 500, "{said}");
        assert!(!said.contains(&*folder.path().to_string_lossy()), "{said}");
    }
    assert_eq!((load("new", "damaged.lrk"), load("new", "peft")), (400, 400));
    server.finish();
}

/// A directory of PEFT whose configuration says another rank than its file.
fn broken_peft(folder: &std::path::Path) {
    let adapter = SharedAdapter::open(ArchiveFile::open(asset("tiny-notes.lrk")).unwrap()).unwrap();
    let base = ArchiveFile::open(asset("tiny.lrk")).unwrap();
    let model = Llama::open(&base).unwrap();
    export_peft(&adapter.adapter(), &model, folder).unwrap();
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["r"] = 1_000_000_000_u64.into();
    std::fs::write(&path, config.to_string()).unwrap();
}
