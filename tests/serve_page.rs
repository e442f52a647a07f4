//! The page of the HTTP server: its files, their types and headers, and that none names another
//! host. What it does in a browser is in `tests/page`.

mod http_server;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use http_server::{Server, start};
use serde_json::{Value, json};

/// Files by hand in the addresses of a browser, and their types.
const FILES: [(&str, &str); 3] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
];

/// Head, in lower case, and body of an answer.
fn ask(server: &Server, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(": ");
    head.lines().find_map(value).unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// What a file names in quotes behind one of these words: what a browser would ask for.
fn named(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for word in ["src=\"", "href=\"", "action=\"", "from \"", "import \"", "import(\"", "url("] {
        for (at, _) in text.match_indices(word) {
            let rest = &text[at + word.len()..];
            found.push(&rest[..rest.find(['"', ')']).unwrap()]);
        }
    }
    found
}

#[test]
fn every_file_of_the_page_is_there_with_its_type_and_names_no_other_host() {
    let server = start(|options, _| options.keys = vec!["sk-ask".to_owned()]);
    let mut left: Vec<String> = FILES.map(|(path, _)| path.to_owned()).to_vec();
    let mut seen = BTreeSet::new();
    while let Some(path) = left.pop() {
        if path.starts_with('#') || !seen.insert(path.clone()) {
            continue;
        }
        let (head, body) = ask(&server, "GET", &path);
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        let kind = header(&head, "content-type");
        match FILES.iter().find(|(known, _)| *known == path) {
            Some((_, wanted)) => assert_eq!(kind, *wanted),
            None => assert!(
                ["text/javascript", "text/css", "image/svg+xml"]
                    .contains(&kind.split(';').next().unwrap())
            ),
        }
        let policy = header(&head, "content-security-policy");
        for rule in ["default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.split("; ").any(|part| part == rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(header(&head, "x-content-type-options"), "nosniff");
        assert_eq!(header(&head, "referrer-policy"), "no-referrer");
        assert_eq!(header(&head, "cache-control"), "no-store");
        assert_eq!(header(&head, "content-length"), body.len().to_string());
        // A namespace is a name, nothing is asked for there.
        let text = body.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!text.contains("//127") && !text.contains("://"), "{path} names a host");
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!text.contains(word), "{path}: {word}");
        }
        // The policy would refuse what stands between tags.
        assert!(!text.contains("style=\"") && !text.contains("onclick=\""), "{path}");
        left.extend(named(&text).into_iter().map(str::to_owned));
    }
    assert!(seen.len() > FILES.len(), "what they name is looked at: {seen:?}");
    assert!(seen.iter().all(|path| path.starts_with('/') && !path.starts_with("//")), "{seen:?}");
    server.finish();
}

#[test]
fn the_page_tells_without_a_key_whether_there_is_a_template_and_nothing_else() {
    let server = start(|options, _| options.keys = vec!["sk-ask".to_owned()]);
    let (status, told) = server.get("/page/base.json");
    assert_eq!(
        (status, told),
        (200, json!({ "writes": "tiny", "reads": null, "has_chat_template": false }))
    );
    for path in ["/v1/models", "/v1/lora_adapters"] {
        let (status, refusal) = server.get(path);
        assert_eq!((status, &refusal["error"]["code"]), (401, &Value::from("invalid_api_key")));
    }
    server.finish();
}

#[test]
fn the_page_takes_no_other_method_and_has_no_other_file() {
    let server = start(|_, _| ());
    let (head, body) = ask(&server, "HEAD", "/");
    assert!(head.starts_with("http/1.1 200") && body.is_empty());
    let (status, refusal) = server.post("/page.js", &json!({}));
    assert_eq!((status, &refusal["error"]["code"]), (405, &Value::from("method")));
    for path in ["/page", "/page/", "/page/page.js", "/page/../page.js", "/index.html"] {
        let (status, refusal) = server.get(path);
        assert_eq!(
            (status, &refusal["error"]["code"]),
            (404, &Value::from("unknown_url")),
            "{path}"
        );
    }
    server.finish();
}
