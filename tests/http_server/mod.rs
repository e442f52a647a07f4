//! A server over the embedded model, for tests; and what the library answers alone.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};

use lowrank::archive::ArchiveFile;
use lowrank::engine::{
    Engine, EngineOptions, Expected, Registry, RegistryOptions, Request, Scheduler,
};
use lowrank::kernel::Precision;
use lowrank::runtime::{Limits, Serial};
use lowrank::serve::{Models, Served, ServerOptions, open_registry, register_folder, serve};
use serde_json::{Value, json};

pub const CONTEXT: usize = 128;
pub const PROMPTS: [&str; 4] = ["Duck", "The boat", "Once upon a time there was", "A"];

pub fn asset(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

pub struct Server {
    pub address: SocketAddr,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// A server over the embedded model with its two adapters; `change` what it is started with.
pub fn start(change: impl FnOnce(&mut ServerOptions, &mut usize)) -> Server {
    let mut options = ServerOptions::default();
    let mut waiting = 64;
    change(&mut options, &mut waiting);
    let base = Arc::new(ArchiveFile::open(asset("tiny.lrk")).unwrap());
    let registry = open_registry(&[Arc::clone(&base).into()], RegistryOptions::default()).unwrap();
    for name in ["pirate", "notes"] {
        registry.load(name, asset(&format!("tiny-{name}.lrk")), Expected::Absent).unwrap();
    }
    if let Some(folder) = &options.folder {
        register_folder(&registry, folder, &["tiny"]).unwrap();
    }
    let scheduler = Scheduler::start(base, Arc::new(Serial), waiting, |model, executor| Limits {
        batch: 3,
        prefill_chunk: 8,
        max_total_rank: 128,
        precision: Precision::Exact,
        ..Limits::for_model(model, CONTEXT, executor)
    });
    let decoder = Served { name: "tiny".to_owned(), scheduler: scheduler.unwrap() };
    run(Models { decoder: Some(decoder), ..Models::default() }, registry, options)
}

/// A server that answers with these models.
pub fn run(models: Models, registry: Registry, options: ServerOptions) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let wait = async {
        let _ = ended.await;
    };
    let thread = spawn(move || serve(listener, models, registry, options, wait));
    Server { address, end: Some(end), thread: Some(thread) }
}

impl Server {
    /// Status and body of an answer.
    pub fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Who refuses a body early closes the connection: the answer is there all the same.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        (status, if is_chunked { unchunked(body) } else { body.to_owned() })
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.raw("POST", path, "", body.to_string().as_bytes());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.raw("GET", path, "", b"");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The greedy continuation of a prompt.
    pub fn complete(&self, model: &str, prompt: &str, tokens: usize) -> Value {
        let (status, reply) = self.post(
            "/v1/completions",
            &json!({ "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0 }),
        );
        assert_eq!(status, 200, "{reply}");
        reply
    }

    pub fn finish(mut self) {
        self.end.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

/// A body without the lengths of its chunks.
pub fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole += &rest[..length];
        body = &rest[length..][2..];
    }
    whole
}

pub fn engine_options() -> EngineOptions {
    let precision = Some(Precision::Exact);
    EngineOptions { context: Some(CONTEXT), threads: 1, precision, ..EngineOptions::default() }
}

/// What the library answers alone.
pub fn alone(adapter: Option<&str>, prompt: &str, tokens: usize) -> String {
    let options = engine_options();
    let mut engine = Engine::open(asset("tiny.lrk"), options).unwrap();
    let mut request = Request { tokens, ..Request::text(prompt) };
    if let Some(name) = adapter {
        engine.attach_file(name, asset(&format!("tiny-{name}.lrk"))).unwrap();
        request = request.with(name);
    }
    engine.generate(&request, |_| std::ops::ControlFlow::Continue(())).unwrap().text
}
