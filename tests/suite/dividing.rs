//! Pools that give some of their requests to another, or copies of them.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::Response;
use crate::harness::node::complete;
use crate::harness::origin::Gate;
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

fn config(app: &Origin, other: &Origin, pool: &str) -> String {
    complete(&format!(
        "[node]\nstate_dir = \"state\"\n[pool.app]\norigins = [\"{}\"]\n{pool}\n[pool.other]\norigins = [\"{}\"]\n\
         [site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/big/*\"\npool = \"app\"\n\
         cache = {{ mode = \"respect\", slice = \"1MiB\" }}\n\
         [[site.shop.route]]\npath = \"/cached/*\"\npool = \"app\"\ncache = {{ mode = \"respect\" }}\n\
         [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n",
        app.address, other.address
    ))
}

/// An origin whose answers say who it is, and how often it was asked.
fn named(name: &'static str) -> Origin {
    Origin::start(move |request| Reply::ok(&["Cache-Control: max-age=60"], format!("{name} {}", request.path())))
}

/// What the clients 127.0.0.2 to 127.0.0.61 get, in order.
fn answers(node: &Node, path: &str) -> Vec<Response> {
    (2..62).map(|last| Client::connect_from([127, 0, 0, last], node.address()).get(path, &[])).collect()
}

fn given(answers: &[Response]) -> Vec<usize> {
    let places = answers.iter().enumerate().filter(|(_, answer)| answer.text().starts_with("canary"));
    places.map(|(place, _)| place).collect()
}

fn pool(node: &Node) -> Value {
    node.admin("GET", "/v1/pools", "").1["pools"][0].clone()
}

#[test]
fn a_share_of_the_clients_goes_to_another_pool_and_gets_its_answers_alone() {
    let (app, canary) = (named("app"), named("canary"));
    let directory = Arc::new(TempDir::new().unwrap());
    let text = config(&app, &canary, "split = { pool = \"other\", share = 0.25 }");
    let mut node = Node::start_in(directory.clone(), &text);
    let some = given(&answers(&node, "/passed"));
    assert!((5..28).contains(&some.len()), "{some:?}");
    // Memory, followers and hits: what is stored of the one pool is not for clients of the other.
    for round in 0..2 {
        let cached = answers(&node, "/cached/a");
        assert_eq!(given(&cached), some, "the same ones, whatever they ask for");
        let hits = cached.iter().filter(|answer| answer.is_hit()).count();
        assert_eq!(hits, if round == 0 { 58 } else { 60 });
    }
    node.purge("{\"urls\": [\"http://shop.example/cached/a\"]}");
    let anew = answers(&node, "/cached/a");
    assert_eq!(
        (given(&anew), anew.iter().filter(|answer| answer.is_hit()).count()),
        (some.clone(), 58),
        "both are purged"
    );
    let order =
        |node: &Node, share: Value| node.admin("POST", "/v1/pools/app/split", &json!({ "share": share }).to_string());
    assert_eq!(order(&node, json!(2)).0, 400);
    let (status, answer) = order(&node, json!(1));
    assert_eq!((status, &answer["to"], &answer["durable"]), (200, &json!("other"), &json!(true)));
    assert_eq!(given(&answers(&node, "/passed")).len(), 60);
    assert_eq!(node.metric("seawall_pool_split_share{pool=\"app\",to=\"other\"}"), Some(1.0));
    let route = node.admin("GET", "/v1/explain?url=shop.example/passed&client=10.0.0.1", "").1["route"].clone();
    assert_eq!((&route["pool"], route["split"].is_string()), (&json!("other"), true), "{route}");
    // It outlives a restart.
    node.signal("TERM");
    assert!(node.wait());
    let node = Node::start_in(directory.clone(), &text);
    assert_eq!(pool(&node)["split"], json!({ "to": "other", "share": 1.0 }));
    assert_eq!(given(&answers(&node, "/cached/b")).len(), 60);
    order(&node, json!(0));
    assert_eq!(given(&answers(&node, "/cached/b")), [0_usize; 0], "what the other has answered is not for these");
    assert_eq!(order(&node, Value::Null).1["share"], 0.25);
    assert_eq!(given(&answers(&node, "/passed")), some);
    assert_eq!(node.admin("POST", "/v1/pools/other/split", "{\"share\": 0.5}").0, 404);
}

#[test]
fn what_was_stored_before_a_pool_gave_requests_away_is_not_for_those() {
    let (app, canary) = (named("app"), named("canary"));
    let node = Node::start(&config(&app, &canary, ""));
    assert!(answers(&node, "/cached/a").iter().all(|answer| answer.text().starts_with("app")));
    let text = std::fs::read_to_string(node.config_path()).unwrap();
    let generation = node.generation();
    let split = "[pool.app]\nsplit = { pool = \"other\", share = 1.0 }";
    std::fs::write(node.config_path(), text.replace("[pool.app]", split)).unwrap();
    node.wait_for_generation(generation + 1);
    assert_eq!(given(&answers(&node, "/cached/a")).len(), 60);
    std::fs::write(node.config_path(), text).unwrap();
    node.wait_for_generation(generation + 2);
    let back = answers(&node, "/cached/a");
    assert!(back.iter().all(|answer| answer.text().starts_with("app") && answer.is_hit()), "it is still there");
}

#[test]
fn slices_are_of_the_pool_that_their_client_is_given_to() {
    let body = |name: u8| -> Vec<u8> { vec![name; 3 << 20] };
    let sliced = |name: u8| {
        Origin::start(move |request| {
            let all = body(name);
            let range = request.field("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
            let fields = ["Cache-Control: max-age=60".to_owned(), format!("ETag: \"{name}\"")];
            match range {
                Some((first, last)) => {
                    let (first, last) = (first.parse().unwrap(), last.parse::<usize>().unwrap().min(all.len() - 1));
                    let range = format!("Content-Range: bytes {first}-{last}/{}", all.len());
                    Reply::status(206, &[&fields[0], &fields[1], &range], &all[first..=last])
                }
                None => Reply::ok(&[&fields[0], &fields[1]], all),
            }
        })
    };
    let (app, canary) = (sliced(b'a'), sliced(b'c'));
    let node = Node::start(&config(&app, &canary, "split = { pool = \"other\", share = 0.5 }"));
    for _ in 0..2 {
        let kinds: Vec<u8> = (2..22)
            .map(|last| {
                let answer = Client::connect_from([127, 0, 0, last], node.address()).get("/big/a", &[]);
                assert!(answer.body.len() == 3 << 20 && answer.body.iter().all(|byte| *byte == answer.body[0]));
                answer.body[0]
            })
            .collect();
        assert!(kinds.contains(&b'a') && kinds.contains(&b'c'));
    }
    assert_eq!((app.count(), canary.count()), (3, 3));
}

#[test]
fn copies_go_to_another_pool_and_nobody_waits_for_them() {
    let app = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=60"], request.text()));
    let gate = Gate::default();
    let for_shadow = gate.clone();
    let shadow = Origin::start(move |request| match request.path() {
        "/held" => [vec![Step::Wait(for_shadow.clone())], Reply::ok(&[], "late")].concat(),
        _ => Reply::ok(&[], "nobody's"),
    });
    let mirror = "mirror = { pool = \"other\", max_body = \"1KiB\", max_requests = 3 }";
    let node = Node::start(&config(&app, &shadow, mirror));
    let mut client = node.client();
    let body = "x".repeat(1000);
    assert_eq!(client.request("POST", "/new", &[], &body).text(), body);
    client.send(format!(
        "POST /new HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n{body}\r\n0\r\n\r\n"
    ));
    assert_eq!(client.response("POST").text(), body);
    let copies = shadow.wait_for(2);
    assert!(copies.iter().all(|copy| copy.head.starts_with("POST ") && copy.path() == "/new" && copy.text() == body));
    // Too long, stated and not: left out.
    let long = "x".repeat(1025);
    assert_eq!(client.request("POST", "/long", &[], &long).text(), long);
    client.send(format!(
        "POST /long HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{long}\r\n0\r\n\r\n"
    ));
    assert_eq!(client.response("POST").text(), long);
    // A miss has a copy, a hit has none.
    for _ in 0..3 {
        assert_eq!(client.get("/cached/a", &[]).status, 200);
    }
    shadow.wait_for(3);
    // A pool that does not answer holds up nobody, and gets no more than it may have.
    for _ in 0..20 {
        assert_eq!(client.get("/held", &[]).status, 200);
    }
    shadow.wait_for(6);
    gate.open();
    let mirrored = |what: &str| pool(&node)["mirror"][what].as_u64().unwrap();
    eventually("all of them", || (mirrored("answered") == 6 && mirrored("left_out") == 2 + 17).then_some(()));
    let copies = |result: &str| {
        node.metric(&format!("seawall_pool_copies_total{{pool=\"app\",result=\"{result}\",to=\"other\"}}"))
    };
    assert_eq!((copies("answered"), copies("left_out")), (Some(6.0), Some(19.0)));
    assert_eq!(shadow.requests().iter().filter(|request| request.path() == "/long").count(), 0);
    assert_eq!((app.count(), shadow.count()), (2 + 2 + 1 + 20, 6), "counted where they come to");
    shadow.stop();
    assert_eq!(client.get("/gone", &[]).status, 200);
    eventually("it fails", || (mirrored("failed") == 1).then_some(()));
}

#[test]
fn what_takes_longer_than_most_is_asked_of_a_second_origin_within_the_budget() {
    let origin = |name: &'static str, gate: &Gate| {
        let gate = gate.clone();
        Origin::start(move |request| match request.path().starts_with("/held") {
            true => [vec![Step::Wait(gate.clone())], Reply::ok(&[], name)].concat(),
            false => Reply::ok(&[], name),
        })
    };
    let (held, open) = (Gate::default(), Gate::default());
    open.open();
    let (slow, quick) = (origin("slow", &held), origin("quick", &open));
    let config = |hedge: &str| {
        complete(&format!(
            "[pool.app]\norigins = [\"{}\", \"{}\"]\n{hedge}\n[site.shop]\nhosts = [\"*\"]\n\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n",
            slow.address, quick.address
        ))
    };
    let node = Node::start(&config("hedge = true\nretry_budget = { share = 0.0, least = 3 }"));
    let mut client = node.client();
    for number in 0..200 {
        assert_eq!(client.get(&format!("/{number}"), &[]).status, 200);
    }
    let hedges = || pool(&node)["hedge"].clone();
    let before = (slow.count(), quick.count(), hedges()["sent"].as_u64().unwrap());
    // Of these every other one goes to the slow one first; the quick one answers all of them.
    let mut answered = 0;
    while hedges()["sent"].as_u64().unwrap() < 3 {
        assert_eq!(client.get(&format!("/held/{answered}"), &[]).text(), "quick");
        answered += 1;
    }
    let sent = hedges()["sent"].as_u64().unwrap() - before.2;
    assert!(hedges()["won"].as_u64().unwrap() >= sent);
    let asked = slow.count() - before.0 + quick.count() - before.1;
    assert_eq!(asked as u64, answered + sent, "counted where they come to");
    // The budget is spent: from now on one that is held is waited for. So is what is not safe, in any case.
    let mut waiting: Vec<Client> = (0..4).map(|_| node.client()).collect();
    let slow_before = slow.count();
    for client in &mut waiting {
        client.send("GET /held/x HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    slow.wait_for(slow_before + 2);
    assert_eq!(hedges()["sent"], 3);
    held.open();
    assert!(waiting.iter_mut().all(|client| client.response("GET").status == 200));
}
