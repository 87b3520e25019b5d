//! What a node does by itself while it serves: it looks at the files of its configuration, and frees what purges have killed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cache::purge::PurgeSeq;
use crate::config::load;
use crate::config::watch::{self, FileWatch};
use crate::node::{ConfigSource, Node};

/// How often the files of the configuration are looked at, whatever is heard of them.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often what purges have killed is freed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Reloads when the files of the configuration change on disk.
pub(crate) async fn watch_configuration(node: Arc<Node>) {
    let ConfigSource::File(main) = node.source.clone() else { return };
    let mut watch = match FileWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "cannot watch the configuration; reload it by SIGHUP");
            return;
        }
    };
    let mut seen = None;
    loop {
        // Of ten thousand files all this takes a while, so no worker does it.
        let (files, marker) = (watched_files(&node, &main), load::sites_directory(&main).join("*.toml"));
        let setting = move || {
            // The marker makes sites.d itself watched, also while it is empty.
            let unnoticed = watch.set_files(files.iter().chain([&marker]).map(PathBuf::as_path));
            (watch, unnoticed)
        };
        let unnoticed;
        (watch, unnoticed) = match tokio::task::spawn_blocking(setting).await {
            Ok(set) => set,
            Err(error) => {
                tracing::error!(%error, "the configuration is not watched any more; reload it by SIGHUP");
                return;
            }
        };
        if !unnoticed {
            tokio::select! {
                () = watch.changed() => {}
                // For what no event tells of: a link further up that was swapped, a network file system.
                () = tokio::time::sleep(LOOK_EVERY) => {}
                // There may be other files to watch now.
                () = node.tried.notified() => continue,
            }
        }
        let (mut files, for_stamp) = (watched_files(&node, &main), main.clone());
        let stamping = move || {
            files.extend(load::site_files(&for_stamp).unwrap_or_default());
            watch::stamp(&files)
        };
        let Ok(stamp) = tokio::task::spawn_blocking(stamping).await else { continue };
        // Something else in their directories, a log perhaps, is no reason.
        if seen.replace(stamp) != Some(stamp) {
            node.reload().await;
        }
    }
}

fn watched_files(node: &Node, main: &Path) -> Vec<PathBuf> {
    let mut files = node.files();
    files.push(main.to_owned());
    files
}

/// Frees what purges have killed.
pub(crate) async fn sweep(node: Arc<Node>) {
    // What the log had at the start may concern what is on disk.
    let mut swept_up_to = PurgeSeq(0);
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let purges = &node.engine.cache.purges;
        let current = purges.current();
        if current == swept_up_to && purges.marks() == 0 && purges.is_all_written() {
            continue; // nothing was purged since, and no purge is kept for anything's sake
        }
        let engine = node.engine.clone();
        match tokio::task::spawn_blocking(move || engine.sweep()).await {
            Ok(swept) => {
                swept_up_to = current;
                node.observer.metrics.swept_objects.inc_by(swept.objects);
                node.observer.metrics.swept_bytes.inc_by(swept.bytes);
            }
            Err(error) => tracing::error!(%error, "the sweep of purged objects failed; it will be tried again"),
        }
    }
}
