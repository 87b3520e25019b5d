//! What is not to be used again though its file may still be there: what unsafe requests and newer answers have made out of
//! date. A purge has the purge log; this is for what has no number, while its disk is away, cannot be written, or has not
//! come to removing it.
//!
//! `doomed.log` in the state directory has a line for each, `CRC-32 WHAT DIRECTORY`. It is read at the start, and written
//! anew when most of it is settled: when the files are gone for good. What is kept says no more than which file, so that it
//! holds for whatever a response is kept in.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache::durable::{self, if_there, replace, sync_parent};

use super::id::{FileId, KeyHash};
use super::pool::pause;

/// Lines that are kept of one directory. Above that, nothing that is in it is believed after a restart.
const MAX_NOTED: usize = 100_000;
/// The file is written anew when it has more lines than this and most of them are settled.
const COMPACT_ABOVE: usize = 4096;
/// How soon it is tried again to write it.
const AGAIN: Duration = Duration::from_secs(1);

/// What is not to be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doom {
    File(FileId),
    /// All variants of a key.
    Key(KeyHash),
    /// Everything that was in a directory.
    All,
}

impl Doom {
    fn written(self) -> String {
        match self {
            Doom::File(id) => id.name(),
            Doom::Key(key) => format!("{:032x}", key.number()),
            Doom::All => "*".into(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Doom::All),
            key if key.len() == 32 => u128::from_str_radix(key, 16).ok().map(|number| Doom::Key(number.into())),
            name => FileId::parse(name).map(Doom::File),
        }
    }
}

/// What is noted of all directories, and the file that it is kept in.
#[derive(Debug)]
pub struct Journal {
    /// `None`: there is no state directory, and so no disk tier.
    path: Option<PathBuf>,
    state: Mutex<State>,
    /// Held by the thread that writes.
    file: Mutex<Option<File>>,
    /// Up to which number all is durable.
    written: watch::Sender<u64>,
}

/// The numbers of something that is noted.
#[derive(Debug, Clone, Copy)]
struct Noted {
    /// The one that it was given last: it tells what is settled from what was noted anew.
    last: u64,
    /// The one that it had when its line was to be written: it is durable as soon as that is.
    line: u64,
}

#[derive(Debug, Default)]
struct State {
    doomed: HashMap<PathBuf, HashMap<Doom, Noted>>,
    newest: u64,
    /// Lines that are not written yet.
    lines: Vec<u8>,
    /// The file is to be written anew.
    anew: bool,
    /// Lines of the file.
    in_file: usize,
    /// A thread is writing.
    running: bool,
    /// The file may be another process's by now.
    closed: bool,
}

impl State {
    /// Gives the number to wait for.
    fn note(&mut self, root: &Path, doom: Doom) -> u64 {
        let of_root = self.doomed.entry(root.to_owned()).or_default();
        // Also what `All` is noted for has its own note: `All` may be settled before it is.
        let is_too_much = of_root.len() >= MAX_NOTED && doom != Doom::All && !of_root.contains_key(&doom);
        if is_too_much && !of_root.contains_key(&Doom::All) {
            tracing::warn!(path = %root.display(), "so much was invalidated that is still on this disk that nothing on it would be believed after a restart");
        }
        let doom = if is_too_much { Doom::All } else { doom };
        if doom == Doom::All {
            of_root.retain(|noted, _| *noted == Doom::All); // it stands for all the others
        }
        self.newest += 1;
        if let Some(noted) = of_root.get_mut(&doom) {
            noted.last = self.newest;
            return noted.line; // it has a line already
        }
        of_root.insert(doom, Noted { last: self.newest, line: self.newest });
        self.lines.extend_from_slice(line(root, doom).as_bytes());
        self.newest
    }

    /// Whether most lines of the file are settled.
    fn is_worn(&self) -> bool {
        self.in_file > COMPACT_ABOVE.max(2 * self.live())
    }

    fn all_lines(&self) -> Vec<u8> {
        let lines = self.doomed.iter().flat_map(|(root, dooms)| dooms.keys().map(|doom| line(root, *doom)));
        lines.collect::<String>().into_bytes()
    }

    fn live(&self) -> usize {
        self.doomed.values().map(HashMap::len).sum()
    }
}

impl Journal {
    /// Reads what was noted. `false`: some of it is lost.
    pub fn open(directory: Option<&Path>) -> (Arc<Self>, bool) {
        let path = directory.map(|directory| directory.join("doomed.log"));
        let mut state = State::default();
        let whole = path.as_deref().is_none_or(|path| match if_there(fs::read(path)) {
            Ok(text) => replay(&mut state, &text.unwrap_or_default()),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the journal of the disk cache cannot be read");
                false
            }
        });
        // Also what was torn is gone then.
        state.anew = state.in_file > 0 || !whole;
        let written = watch::Sender::new(state.newest);
        (Arc::new(Journal { path, state: Mutex::new(state), file: Mutex::default(), written }), whole)
    }

    /// Notes what is not to be used again, once it cannot be found any more: what is noted earlier may be taken for settled.
    /// Gives the number to wait for.
    pub fn note(self: &Arc<Self>, root: &Path, dooms: impl IntoIterator<Item = Doom>) -> u64 {
        if self.path.is_none() {
            return 0;
        }
        let mut state = self.state.lock();
        let number = dooms.into_iter().map(|doom| state.note(root, doom)).max().unwrap_or(0);
        self.start(&mut state);
        number
    }

    /// Waits until what has this number is durable. `false`: it was not so soon.
    pub async fn kept(&self, number: u64, patience: Duration) -> bool {
        let mut written = self.written.subscribe();
        let kept = tokio::time::timeout(patience, written.wait_for(|written| *written >= number)).await;
        kept.is_ok_and(|kept| kept.is_ok())
    }

    /// What is noted of a directory.
    pub fn of(&self, root: &Path) -> Vec<(Doom, u64)> {
        let state = self.state.lock();
        state.doomed.get(root).into_iter().flatten().map(|(doom, noted)| (*doom, noted.last)).collect()
    }

    /// The newest number so far.
    pub fn newest(&self) -> u64 {
        self.state.lock().newest
    }

    pub fn count(&self, root: &Path) -> usize {
        self.state.lock().doomed.get(root).map_or(0, HashMap::len)
    }

    /// Forgets what is gone for good, unless it was noted again meanwhile.
    pub fn forget(self: &Arc<Self>, root: &Path, settled: &[(Doom, u64)]) {
        let mut state = self.state.lock();
        if let Some(of_root) = state.doomed.get_mut(root) {
            for (doom, number) in settled {
                if of_root.get(doom).is_some_and(|noted| noted.last == *number) {
                    of_root.remove(doom);
                }
            }
        }
        state.anew |= state.is_worn() || state.live() == 0 && state.in_file > 0;
        self.start(&mut state);
    }

    /// Writes what is left to be written, and only what still counts; for so long.
    pub fn close(self: &Arc<Self>, patience: Duration) {
        let mut state = self.state.lock();
        state.anew |= state.in_file > state.live();
        self.start(&mut state);
        drop(state);
        let deadline = Instant::now() + patience;
        while self.state.lock().running {
            if Instant::now() > deadline {
                return tracing::warn!(
                    "the journal of the disk cache could not be written; the next start removes more"
                );
            }
            pause(Duration::from_millis(5));
        }
        self.state.lock().closed = true;
    }

    /// Has a thread write, if there is something to be written and none does. It goes on as long as there is.
    fn start(self: &Arc<Self>, state: &mut State) {
        let is_idle = state.closed || state.lines.is_empty() && !state.anew;
        if is_idle || std::mem::replace(&mut state.running, true) {
            return;
        }
        let journal = self.clone();
        let thread = std::thread::Builder::new().name("disk-journal".into());
        if let Err(error) = thread.spawn(move || journal.write_all()) {
            tracing::error!(%error, "the journal of the disk cache cannot be written for want of a thread");
            state.running = false;
        }
    }

    fn write_all(&self) {
        let Some(path) = &self.path else { return };
        let mut file = self.file.lock();
        let mut failing = false;
        loop {
            let (lines, newest, anew) = {
                let mut state = self.state.lock();
                if state.lines.is_empty() && !state.anew {
                    state.running = false;
                    return;
                }
                let anew = std::mem::take(&mut state.anew) || state.is_worn();
                let waiting = std::mem::take(&mut state.lines);
                let lines = if anew { state.all_lines() } else { waiting };
                let before = if anew { 0 } else { state.in_file };
                state.in_file = before + lines.iter().filter(|byte| **byte == b'\n').count();
                (lines, state.newest, anew)
            };
            let done = match anew {
                true => {
                    *file = None;
                    replace(path, &path.with_extension("log.new"), &lines)
                }
                false => append(&mut file, path, &lines),
            };
            match done {
                Ok(()) => {
                    failing = false;
                    self.written.send_replace(newest);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(path = %path.display(), %error, "the journal of the disk cache cannot be written: a restart may bring back what was invalidated");
                    }
                    *file = None;
                    self.state.lock().anew = true; // what was to be written is among all there is
                    pause(AGAIN);
                }
            }
        }
    }
}

fn append(file: &mut Option<File>, path: &Path, lines: &[u8]) -> io::Result<()> {
    let file = match file {
        Some(file) => file,
        None => {
            let opened = OpenOptions::new().create(true).append(true).open(path)?;
            sync_parent(path)?;
            file.insert(opened)
        }
    };
    file.write_all(lines)?;
    file.sync_data()
}

fn line(root: &Path, doom: Doom) -> String {
    durable::line(&format!("{} {}", doom.written(), root.display()))
}

fn parse(line: &[u8]) -> Option<(&Path, Doom)> {
    let (doom, root) = durable::text_of(line)?.split_once(' ')?;
    Some((Path::new(root), Doom::parse(doom)?))
}

/// Takes over what a file has. `false`: some of it is damaged. A last line without its end was never confirmed.
fn replay(state: &mut State, text: &[u8]) -> bool {
    let mut whole = true;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        state.in_file += 1;
        let Some(line) = line.strip_suffix(b"\n") else { break };
        match parse(line) {
            Some((root, doom)) => _ = state.note(root, doom),
            None => whole = false,
        }
    }
    state.lines.clear();
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn wait(journal: &Journal, number: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(runtime.block_on(journal.kept(number, PATIENCE)));
    }

    fn id(number: u32) -> FileId {
        FileId { key: KeyHash::from(u128::from(number)), variant: number }
    }

    #[test]
    fn what_was_noted_is_known_again_until_it_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (Path::new("/disk one"), Path::new("/two"));
        let (journal, whole) = Journal::open(Some(directory.path()));
        assert!(whole && journal.of(one).is_empty());
        journal.note(one, [Doom::File(id(1)), Doom::Key(KeyHash::from(7))]);
        let number = journal.note(two, [Doom::File(id(2))]);
        wait(&journal, number);
        let (again, whole) = Journal::open(Some(directory.path()));
        assert!(whole && again.count(one) == 2 && again.of(two)[0].0 == Doom::File(id(2)));
        let settled = again.of(one);
        assert!(again.note(one, [Doom::File(id(1))]) <= number, "its line is there already");
        again.forget(one, &settled);
        let left: Vec<Doom> = again.of(one).into_iter().map(|(doom, _)| doom).collect();
        assert_eq!(left, [Doom::File(id(1))], "it was noted anew meanwhile");
        again.close(PATIENCE);
        let lines = fs::read_to_string(directory.path().join("doomed.log")).unwrap();
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }

    #[test]
    fn a_torn_line_is_nothing_and_a_damaged_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("doomed.log");
        let root = Path::new("/a");
        let whole = [line(root, Doom::File(id(1))), line(root, Doom::All)].concat();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let (journal, intact) = Journal::open(Some(directory.path()));
        assert!(intact && journal.of(root)[0].0 == Doom::File(id(1)));
        fs::write(&path, whole.replacen("-", "+", 1)).unwrap();
        let (journal, intact) = Journal::open(Some(directory.path()));
        assert!(!intact && journal.of(root)[0].0 == Doom::All);
    }

    #[test]
    fn of_too_much_all_is_doomed() {
        let mut state = State::default();
        (0..=MAX_NOTED as u32).for_each(|number| _ = state.note(Path::new("/a"), Doom::File(id(number))));
        assert_eq!(state.doomed[Path::new("/a")].keys().collect::<Vec<_>>(), [&Doom::All]);
    }

    #[test]
    fn what_is_noted_beside_all_outlasts_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = Path::new("/a");
        let (journal, _) = Journal::open(Some(directory.path()));
        journal.note(root, [Doom::File(id(1)), Doom::All]);
        let settled = journal.of(root);
        journal.note(root, [Doom::File(id(2))]);
        journal.forget(root, &settled);
        let left: Vec<Doom> = journal.of(root).into_iter().map(|(doom, _)| doom).collect();
        assert_eq!(left, [Doom::File(id(2))]);
        let settled = [(Doom::All, journal.note(root, [Doom::All]))];
        journal.note(root, [Doom::All]);
        journal.forget(root, &settled);
        assert_eq!(journal.count(root), 1, "it was noted anew meanwhile");
    }

    #[test]
    fn what_is_noted_again_and_again_has_one_line() {
        let mut state = State::default();
        let numbers: Vec<u64> = (0..3).map(|_| state.note(Path::new("/a"), Doom::File(id(1)))).collect();
        assert_eq!(numbers, [1, 1, 1]);
        assert_eq!(state.lines, line(Path::new("/a"), Doom::File(id(1))).as_bytes());
    }
}
