//! The queue between the threads that log and the one that writes. It is bounded, and drops what does not fit, so that a reader of the
//! log that is slow or stops delays nobody.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::{
    MakeWriter,
    format::Writer,
    time::{FormatTime, SystemTime},
};

use super::line::{self, MAX_LINE};
use crate::event::Event;

/// Most lines that wait to be written: nearly a second of access lines at 5,000 requests a second, which bridges a pause of the reader.
pub(super) const MAX_LINES: usize = 4096;

/// Most bytes that wait: as many lines of 512 bytes. Small beside the memory that `deploy/` gives the process.
pub(crate) const MAX_BYTES: usize = MAX_LINES * 512;

const _: () = assert!(MAX_LINE <= MAX_BYTES);

/// What is in the queue, and what did not fit.
#[derive(Debug, Default)]
struct Account {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Account {
    /// Whether a line of this size fits; then it is counted as queued, else as dropped.
    fn try_take(&self, bytes: usize) -> bool {
        let add = |count: &AtomicUsize, more: usize, most: usize| {
            let within = |n: usize| n.checked_add(more).filter(|n| *n <= most);
            let added = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, within);
            added.is_ok()
        };
        if add(&self.lines, 1, MAX_LINES) {
            if add(&self.bytes, bytes, MAX_BYTES) {
                return true;
            }
            self.lines.fetch_sub(1, Ordering::AcqRel);
        }
        self.dropped.fetch_add(1, Ordering::AcqRel);
        false
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.lines.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The end into which lines go. It never waits.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    lines: NonBlocking,
    account: Arc<Account>,
    json: bool,
}

impl Queue {
    /// Starts the thread that writes to `out`. It ends when the guard is dropped, which waits a second at most for what is queued.
    pub(super) fn start(out: impl Write + Send + 'static, json: bool) -> (Queue, WorkerGuard) {
        let account = Arc::new(Account::default());
        let output = Output {
            out,
            account: account.clone(),
            json,
            reported: 0,
            since_report: 0,
        };
        let builder = NonBlockingBuilder::default()
            // `Account` keeps it from being full, so there is always a place for the guard's own message.
            .buffered_lines_limit(MAX_LINES + 1)
            .lossy(true)
            .thread_name("log");
        let (lines, guard) = builder.finish(output);
        let queue = Queue {
            lines,
            account,
            json,
        };
        (queue, guard)
    }

    /// Queues a line, or counts it as dropped.
    pub(super) fn push(&mut self, line: &[u8]) {
        if line.len() > MAX_LINE {
            return self.send(&line::cut(line, self.json));
        }
        self.send(line);
    }

    fn send(&mut self, line: &[u8]) {
        if self.account.try_take(line.len()) {
            // Cannot fail: it only queues.
            let _ = self.lines.write_all(line);
        }
    }

    /// Lines that were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.account.dropped.load(Ordering::Acquire)
    }
}

/// Each event is one write.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

/// The other end, on the thread that writes.
struct Output<W> {
    out: W,
    account: Arc<Account>,
    json: bool,
    /// How many of the dropped lines have been reported.
    reported: u64,
    /// Lines written since the last report.
    since_report: usize,
}

impl<W: Write> Output<W> {
    /// After a gap, writes a line that says how many lines are missing.
    fn report(&mut self) {
        let dropped = self.account.dropped.load(Ordering::Acquire);
        let missing = dropped - self.reported;
        self.since_report = 0;
        if missing > 0 && self.out.write_all(&gap(missing, self.json)).is_ok() {
            self.reported = dropped;
        }
    }
}

impl<W: Write> Write for Output<W> {
    /// Writes a whole line. One that cannot be written is dropped; the thread goes on.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // What was queued when the last line was dropped is written by then.
        if self.since_report >= MAX_LINES {
            self.report();
        }
        self.since_report += 1;
        if self.out.write_all(line).is_err() {
            self.account.dropped.fetch_add(1, Ordering::AcqRel);
        }
        self.account.release(line.len());
        Ok(line.len())
    }

    /// The queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        self.report();
        // Its caller would print an error, on the same standard error.
        let _ = self.out.flush();
        Ok(())
    }
}

/// The report of a gap, in the form of the log's other lines. It goes past the queue, so it cannot be dropped.
fn gap(missing: u64, json: bool) -> Vec<u8> {
    const MESSAGE: &str = "log lines were dropped";
    let mut timestamp = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let (target, event) = (module_path!(), Event::LogLinesDropped.label());
    let line = if json {
        serde_json::json!({
            "timestamp": timestamp,
            "level": "WARN",
            "event": event,
            "message": MESSAGE,
            "lines": missing,
            "target": target,
        })
        .to_string()
    } else {
        format!("{timestamp}  WARN {target}: {MESSAGE} event=\"{event}\" lines={missing}")
    };
    format!("{line}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
    };

    use super::*;

    /// A reader that takes a line only when it is told to.
    struct Reader {
        asked: Receiver<()>,
        began: Sender<()>,
        seen: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            // An error ends the test: the other side reads everything from then on.
            let _ = self.asked.recv();
            self.seen.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stopped {
        queue: Queue,
        guard: WorkerGuard,
        resume: Sender<()>,
        began: Receiver<()>,
        seen: Arc<Mutex<Vec<u8>>>,
    }

    /// A queue whose reader has stopped within the first line.
    fn stopped(json: bool) -> Stopped {
        let ((resume, asked), (begins, began)) = (channel(), channel());
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let reader = Reader {
            asked,
            began: begins,
            seen: seen.clone(),
        };
        let (mut queue, guard) = Queue::start(reader, json);
        queue.push(b"first\n");
        began.recv().unwrap();
        Stopped {
            queue,
            guard,
            resume,
            began,
            seen,
        }
    }

    impl Stopped {
        /// Lets the reader read, and returns the lines after it has read all.
        fn read(self) -> Vec<String> {
            drop(self.resume);
            drop(self.guard);
            drop(self.began);
            let seen = self.seen.lock().unwrap();
            String::from_utf8(seen.clone())
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_counted_and_reported() {
        for json in [true, false] {
            let mut stopped = stopped(json);
            for _ in 0..MAX_LINES + 99 {
                stopped.queue.push(b"x\n");
            }
            // The line that is being written counts.
            assert_eq!(stopped.queue.dropped(), 100);
            let lines = stopped.read();
            assert_eq!(lines.len(), MAX_LINES + 1);
            assert_eq!(lines[0], "first");
            let gap = lines.last().unwrap();
            if json {
                let gap: serde_json::Value = serde_json::from_str(gap).unwrap();
                assert_eq!(gap["message"], "log lines were dropped");
                assert_eq!(
                    (&gap["level"], &gap["lines"]),
                    (&"WARN".into(), &100.into())
                );
                assert!(gap["timestamp"].as_str().unwrap().ends_with('Z'), "{gap}");
                assert_eq!(gap["target"], module_path!().trim_end_matches("::tests"));
            } else {
                let end = "log lines were dropped event=\"log_lines_dropped\" lines=100";
                assert!(gap.ends_with(end), "{gap}");
            }
        }
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_and_so_is_each_line() {
        let mut stopped = stopped(false);
        let long = [b'x'; 20 * MAX_LINE];
        for _ in 0..MAX_BYTES / MAX_LINE + 10 {
            stopped.queue.push(&long);
        }
        let bytes = stopped.queue.account.bytes.load(Ordering::Acquire);
        assert!(
            (MAX_BYTES - MAX_LINE..=MAX_BYTES).contains(&bytes),
            "{bytes}"
        );
        assert_eq!(stopped.queue.dropped(), 11);
        let queue = stopped.queue.clone();
        let lines = stopped.read();
        let longest = lines.iter().map(|line| line.len() + 1).max();
        assert_eq!(longest, Some(MAX_LINE));
        // Nothing is left behind.
        let Account { lines, bytes, .. } = &*queue.account;
        let left = (lines.load(Ordering::Acquire), bytes.load(Ordering::Acquire));
        assert_eq!(left, (0, 0));
    }

    #[test]
    fn a_reader_that_has_stopped_holds_up_neither_a_line_nor_the_end() {
        let mut stopped = stopped(true);
        for _ in 0..2 * MAX_LINES {
            stopped.queue.push(b"x\n");
        }
        // The guard's message finds a place in a full queue, and the wait for the reader ends by itself.
        let start = tokio::time::Instant::now();
        drop(stopped.guard);
        assert!(start.elapsed() < std::time::Duration::from_secs(10));
        drop(stopped.resume);
    }

    #[test]
    fn a_report_comes_while_the_queue_never_empties() {
        struct Closed(usize);
        impl Write for Closed {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += usize::from(bytes != b"x\n");
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let account = Arc::new(Account::default());
        account.dropped.store(3, Ordering::Release);
        let mut output = Output {
            out: Closed(0),
            account: account.clone(),
            json: true,
            reported: 0,
            since_report: 0,
        };
        for _ in 0..=MAX_LINES {
            assert!(account.try_take(2));
            output.write_all(b"x\n").unwrap();
        }
        assert_eq!((output.out.0, output.reported), (1, 3));
    }

    #[test]
    fn a_line_that_cannot_be_written_counts_as_dropped() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut queue, guard) = Queue::start(Gone, true);
        queue.push(b"one\n");
        queue.push(b"two\n");
        drop(guard);
        assert_eq!(queue.dropped(), 2);
    }
}
