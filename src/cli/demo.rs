//! `seawall demo`: a node, two small origins with a few real files, and a page that shows hit or miss.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::app::{self, Handed};
use crate::config::load;
use crate::node::ConfigSource;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the node listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where its admin API listens.
    #[arg(long, default_value = "127.0.0.1:9180")]
    admin: SocketAddr,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    let origins = [start_origin("harbour-1")?, start_origin("harbour-2")?];
    let text = configuration(args, origins);
    let config = load::parse(Path::new("demo"), &text)?;
    super::start_log(&config.log.level)?;
    for (option, address) in [("--listen", args.listen), ("--admin", args.admin)] {
        let taken = |error| format!("cannot listen on {address}: {error}; give another IP:PORT by {option}");
        std::net::TcpListener::bind(address).map_err(taken)?;
    }
    print!("{}", introduction(args, &text));
    Ok(app::run(config, ConfigSource::Fixed, Handed::default())?)
}

fn configuration(args: &Args, origins: [SocketAddr; 2]) -> String {
    format!(
        r#"[node]
name = "demo"
drain_timeout = "2s"

[[listen]]
address = "{}"

[admin]
address = "{}"

[log]
access = "off"

[pool.harbour]
origins = ["{}", "{}"]
health = {{ path = "/healthz", interval = "1s" }}

[site.demo]
hosts = ["*"]
purge_from = ["127.0.0.1", "::1"]

[[site.demo.route]]
path = "/static/*"
pool = "harbour"
# The page asks past the browser's own cache, which asks for a new response from here as well.
cache = {{ mode = "respect", ignore_client_cache_control = true, stale_while_revalidate = "30s", stale_if_error = "1d" }}

[[site.demo.route]]
path = "/*"
pool = "harbour"
"#,
        args.listen, args.admin, origins[0], origins[1]
    )
}

fn introduction(args: &Args, text: &str) -> String {
    let (node, admin) = (args.listen, args.admin);
    let configuration: String = text.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "Seawall's demo runs with this configuration:\n\n{configuration}\n\
         Open http://{node}/ in a browser, or try:\n\n    \
         curl -i http://{node}/static/style.css        # first a miss, then a hit: see Cache-Status\n    \
         curl -i http://{node}/time                    # not cached: each origin in turn\n    \
         curl -X POST http://{admin}/v1/purge -d '{{\"tags\": [\"assets\"]}}'\n    \
         curl -s http://{admin}/metrics | grep seawall_requests\n    \
         seawall status --admin http://{admin}\n\n\
         Ctrl-C ends it.\n\n"
    )
}

/// One origin, on a thread of its own that ends with the process.
fn start_origin(name: &'static str) -> std::io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.into()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = TcpListener::from_std(socket) else { return };
            if let Err(error) = axum::serve(listener, origin(name)).await {
                tracing::error!(%error, origin = name, "the demo's origin has ended");
            }
        });
    })?;
    Ok(address)
}

struct Origin {
    name: &'static str,
    served: AtomicU64,
}

fn origin(name: &'static str) -> Router {
    let origin = Arc::new(Origin { name, served: AtomicU64::new(0) });
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/", get(|| async { Html(include_str!("demo/index.html")) }))
        .route("/time", get(time))
        .route("/static/style.css", get(|origin| asset(origin, "text/css", include_str!("demo/style.css"))))
        .route("/static/wave.svg", get(|origin| asset(origin, "image/svg+xml", include_str!("demo/wave.svg"))))
        .route("/static/slow.txt", get(slow))
        .with_state(origin)
}

async fn asset(State(origin): State<Arc<Origin>>, kind: &'static str, body: &'static str) -> impl IntoResponse {
    origin.served.fetch_add(1, Ordering::Relaxed);
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "max-age=20"),
            (header::ETAG, "\"1\""),
            (header::HeaderName::from_static("surrogate-key"), "assets"),
            (header::HeaderName::from_static("x-origin"), origin.name),
        ],
        body,
    )
}

/// Takes a second, to show that a crowd waits once.
async fn slow(State(origin): State<Arc<Origin>>) -> impl IntoResponse {
    tokio::time::sleep(Duration::from_secs(1)).await;
    asset(State(origin), "text/plain", "This took the origin a second.\n").await
}

async fn time(State(origin): State<Arc<Origin>>) -> impl IntoResponse {
    let served = origin.served.fetch_add(1, Ordering::Relaxed) + 1;
    (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], format!("{} has served {served} requests\n", origin.name))
}
