//! The log against a plain list of what was acknowledged: through restarts, torn writes, erasures, and flipped bits.

use std::{fs, path::PathBuf};

use proptest::{collection::vec, prelude::*};

use super::*;

const SEED: u64 = 0x5eed;

type Bytes = Vec<u8>;

/// A record that was acknowledged. A payload that is nothing was erased.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    place: Place,
    plain: Bytes,
    payloads: Vec<Option<Bytes>>,
}

/// A log in a folder of its own, and what it must hold.
struct Tried {
    folder: tempfile::TempDir,
    log: Option<(Log, Reader)>,
    kept: Vec<Kept>,
    marks: Vec<Mark>,
    /// A copy in a folder of its own, where it ends, and what it holds.
    copy: tempfile::TempDir,
    copied: (Mark, Vec<Kept>),
}

fn open(folder: &Path, from: Mark) -> Result<(Log, Reader, Vec<Kept>), LogError> {
    let mut found = Vec::new();
    let (log, reader) = Log::open(folder, from, SEED, |record| {
        found.push(self::found(record));
        Ok::<_, LogError>(())
    })?;
    Ok((log, reader, found))
}

fn found(Found { place, record, .. }: Found) -> Kept {
    let payloads = record.payloads().map(|payload| match payload {
        Payload::Whole(bytes) => Some(bytes.to_vec()),
        Payload::Erased => None,
        Payload::Damaged => Some(b"damaged".to_vec()),
    });
    Kept { place, plain: record.plain().to_vec(), payloads: payloads.collect() }
}

impl Tried {
    fn new() -> Tried {
        let folder = tempfile::tempdir().unwrap();
        let (log, reader, found) = open(folder.path(), Mark::START).unwrap();
        assert!(found.is_empty());
        let (copy, copied) = (tempfile::tempdir().unwrap(), (Mark::START, Vec::new()));
        Tried { folder, log: Some((log, reader)), kept: Vec::new(), marks: vec![Mark::START], copy, copied }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().into()
    }

    fn log(&mut self) -> &mut Log {
        &mut self.log.as_mut().unwrap().0
    }

    fn place(&mut self, records: &[(Bytes, Vec<Bytes>)]) -> (Placed, Vec<Kept>) {
        let mut batch = self.log().batch();
        let slots: Vec<Slot> =
            records.iter().map(|(plain, payloads)| batch.push(plain, payloads.iter().map(Vec::as_slice))).collect();
        let placed = self.log().place(batch).unwrap();
        let kept = slots.iter().zip(records).map(|(slot, (plain, payloads))| Kept {
            place: placed.place(*slot),
            plain: plain.clone(),
            payloads: payloads.iter().cloned().map(Some).collect(),
        });
        let kept = kept.collect();
        (placed, kept)
    }

    fn write(&mut self, records: &[(Bytes, Vec<Bytes>)]) {
        let (placed, kept) = self.place(records);
        self.marks.push(placed.write().unwrap());
        self.kept.extend(kept);
    }

    /// Announces the erasure of a payload, and does it, or dies before.
    fn erase(&mut self, at: usize, dies: bool) {
        let with_payload: Vec<usize> = (0..self.kept.len()).filter(|&at| !self.kept[at].payloads.is_empty()).collect();
        if with_payload.is_empty() {
            return;
        }
        let kept = &mut self.kept[with_payload[at % with_payload.len()]];
        let which = at % kept.payloads.len();
        let (log, reader) = self.log.as_mut().unwrap();
        let payload = reader.record(kept.place).unwrap().payload_place(kept.place, which).unwrap();
        let mut batch = log.batch();
        batch.erase(payload);
        self.marks.push(log.place(batch).unwrap().write().unwrap());
        // A payload of zeros alone is what it was.
        if kept.payloads[which].as_ref().is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0)) {
            kept.payloads[which] = None;
        }
        if dies {
            self.reopen(self.marks.len() - 2);
        } else {
            log.erase(&[payload]).unwrap();
        }
    }

    /// Opens it again from an earlier mark.
    fn reopen(&mut self, from: usize) {
        self.log = None;
        let from = self.marks[from % self.marks.len()];
        let (log, reader, _) = open(&self.path(), from).unwrap();
        // What an interrupted erasure left is gone by now.
        drop((log, reader));
        check::<LogError>(&self.path(), |_| Ok(())).unwrap();
        let (log, reader, found) = open(&self.path(), from).unwrap();
        let later = |kept: &&Kept| (kept.place.segment, kept.place.offset) >= (from.segment, from.end);
        let expected: Vec<Kept> = self.kept.iter().filter(later).cloned().collect();
        assert_eq!(found, expected);
        self.log = Some((log, reader));
    }

    /// A cut of the power while a batch is written: of its sectors some are on disk. What the file `acknowledged` says may be
    /// older.
    fn tear(&mut self, records: &[(Bytes, Vec<Bytes>)], sectors: &[bool], old_acknowledged: bool) {
        let acknowledged = self.path().join(ACKNOWLEDGED);
        let at_start = Acknowledged { mark: Mark::START, is_closed: false };
        let (placed, kept) = self.place(records);
        let mut image = placed.head.map_or(Vec::new(), |head| head.to_vec());
        let start = if placed.head.is_some() { 0 } else { u64::from(placed.mark.start) };
        image.extend_from_slice(&placed.bytes);
        let mut at = start;
        let mut complete = true;
        for which in 0.. {
            let end = (at / 512 + 1) * 512;
            let part = (at - start) as usize..((end - start) as usize).min(image.len());
            if part.is_empty() {
                break;
            }
            match sectors[which % sectors.len()] {
                true => placed.segment.file.write_all_at(&image[part], at).unwrap(),
                false => complete &= image[part].iter().all(|&byte| byte == 0),
            }
            at = end;
        }
        let mark = placed.mark;
        drop(placed);
        self.log = None;
        if old_acknowledged {
            let file = OpenOptions::new().write(true).open(acknowledged).unwrap();
            at_start.write(&file, SEED).unwrap();
        }
        let (log, reader, found) = open(&self.path(), Mark::START).unwrap();
        if log.newest().number == mark.number {
            // It was never acknowledged, but all of it is there.
            assert!(complete);
            self.kept.extend(kept);
            self.marks.push(mark);
        }
        assert_eq!(found, self.kept);
        self.log = Some((log, reader));
    }

    /// Brings the copy up to the log, which is in use; it may be killed before, when it had written all but the last byte.
    fn copy(&mut self, is_killed: bool) {
        let (from, to, newest) = (self.path(), self.copy.path().join("copy"), self.log().newest());
        if newest == Mark::START {
            super::copy(&from, &to, true, |_, _| ()).expect_err("there is nothing yet");
            return;
        }
        let (base, before) = self.copied.clone();
        if is_killed && base != newest {
            make_folder(&to).unwrap();
            copy::write_whole(&to, copy::COPYING, &base.encode()).unwrap();
            copy::append(&from, &to, base, newest, &|_, _| ()).unwrap();
            let last = OpenOptions::new().write(true).open(segments::path(&to, newest.segment)).unwrap();
            last.set_len(u64::from(newest.end) - 1).unwrap();
            if base != Mark::START {
                let (log, _, found) = open(&to, Mark::START).unwrap();
                assert_eq!((log.newest(), found), (base, before));
            }
        }
        let copied = super::copy(&from, &to, true, |_, _| ()).unwrap();
        assert_eq!(copied.batches, newest.number - base.number);
        // It is opened from where it ended, as with an index; then from the beginning.
        drop(open(&to, base).unwrap());
        check::<LogError>(&to, |_| Ok(())).unwrap();
        let (log, _, found) = open(&to, Mark::START).unwrap();
        assert_eq!((log.newest(), &found), (newest, &self.kept));
        self.copied = (newest, found);
    }

    fn audit(&self) {
        let (_, reader) = self.log.as_ref().unwrap();
        for kept in &self.kept {
            let record = reader.record(kept.place).unwrap();
            assert_eq!(found(Found { batch: Mark::START, acknowledged: 0, place: kept.place, record }), *kept);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Bytes, Vec<Bytes>)>),
    Erase(usize, bool),
    Reopen(usize),
    Copy(bool),
    Tear(Vec<(Bytes, Vec<Bytes>)>, Vec<bool>, bool),
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    // Zeros are what the log itself writes into space that is not used, and over what is erased.
    prop_oneof![8 => vec(any::<u8>(), 0..most), 1 => (0..most).prop_map(|length| vec![0; length])]
}

fn records() -> impl Strategy<Value = Vec<(Bytes, Vec<Bytes>)>> {
    let small = vec((bytes(80), vec(bytes(300), 0..4)), 0..5);
    // Larger than what is left of a segment, and than a whole one.
    let large =
        (1usize..1_500_000, any::<u8>()).prop_map(|(length, byte)| vec![(vec![byte], vec![vec![byte | 1; length]])]);
    prop_oneof![6 => small, 1 => large]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => records().prop_map(Step::Write),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, dies)| Step::Erase(at, dies)),
        1 => any::<usize>().prop_map(Step::Reopen),
        2 => any::<bool>().prop_map(Step::Copy),
        2 => (records(), vec(any::<bool>(), 1..40), any::<bool>()).prop_map(|(records, sectors, old)| Step::Tear(records, sectors, old)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever happens, what was acknowledged is there, in its order and in its places, and nothing else is.
    #[test]
    fn what_was_acknowledged_is_there(steps in vec(step(), 1..25)) {
        let mut tried = Tried::new();
        for step in steps {
            match step {
                Step::Write(records) => tried.write(&records),
                Step::Erase(at, dies) => tried.erase(at, dies),
                Step::Reopen(from) => tried.reopen(from),
                Step::Copy(is_killed) => tried.copy(is_killed),
                Step::Tear(records, sectors, old) => tried.tear(&records, &sectors, old),
            }
            tried.audit();
        }
    }
}

/// Some batches with payloads, one of them erased.
fn sample() -> Tried {
    let mut tried = Tried::new();
    for number in 0u8..3 {
        let records: Vec<_> =
            (0..3).map(|at| (vec![number; 5 + at], vec![vec![number + 1; 40], vec![7; at]])).collect();
        tried.write(&records);
    }
    tried.erase(0, false);
    tried.write(&[(b"last".to_vec(), vec![b"payload".to_vec()])]);
    tried
}

fn copy(from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match fs::copy(entry.path(), copy.path().join(entry.file_name())) {
            // A segment that was prepared has got its name meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
    copy
}

fn flip(file: &Path, at: u64, mask: u8) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}

/// A copy is of one log alone, and of no damaged one.
#[test]
fn what_is_no_copy_of_a_log_is_left_alone() {
    let (mut one, mut other) = (sample(), Tried::new());
    one.copy(false);
    let to = one.copy.path().join("copy");
    let refused = |from: &Path, to: &Path| super::copy(from, to, true, |_, _| ()).expect_err("it is refused");
    // Another with as many batches, and an older state of the same.
    other.write(&[(b"other".to_vec(), vec![])]);
    assert!(matches!(refused(&other.path(), &to), LogError::NoSuchMark(_)));
    let older = copy(&to);
    one.write(&[(b"newer".to_vec(), vec![])]);
    one.copy(false);
    assert!(matches!(refused(older.path(), &to), LogError::NoSuchMark(_)));
    // What is damaged is not copied, though it is announced by nobody that it is erased.
    one.write(&[(b"plain".to_vec(), vec![b"payload that is found".to_vec()])]);
    let segment = segments::path(&one.path(), 0);
    let at = fs::read(&segment).unwrap().windows(10).rposition(|part| part == b"that is fo").unwrap();
    flip(&segment, at as u64, 1);
    assert!(matches!(refused(&one.path(), &to), LogError::Damaged { .. }));
    let (_, _, found) = open(&to, Mark::START).unwrap();
    assert_eq!(found, one.copied.1);
}

/// A flipped bit anywhere is found by the check, and never read as what was written. What is damaged is not opened and not
/// changed, but for payloads, which are told apart one by one.
#[test]
fn each_flipped_bit_is_found() {
    let mut tried = sample();
    let end = u64::from(tried.log().newest().end);
    let (path, kept) = (tried.path(), std::mem::take(&mut tried.kept));
    drop(tried.log.take());
    let folder = copy(&path);
    let segment = folder.path().join("00000000.log");
    let unused = [end, end + 7, end + 5_000, (1 << 20) - 1];
    let places = (0..end).chain(unused).map(|at| (segment.clone(), at));
    let acknowledged = (0..37).map(|at| (folder.path().join(ACKNOWLEDGED), at));
    for (file, at) in places.chain(acknowledged) {
        let mask = 1 << (at % 8);
        flip(&file, at, mask);
        let before = fs::read(&file).unwrap();
        check::<LogError>(folder.path(), |_| Ok(())).expect_err("the check finds it");
        let mut differ = 0;
        let opened = recovery::judge(folder.path(), Mark::START, false, |record| {
            let found = found(record);
            differ += usize::from(!kept.contains(&found));
            assert_eq!(found.plain, kept.iter().find(|kept| kept.place == found.place).unwrap().plain);
            Ok::<_, LogError>(())
        });
        match opened {
            Ok(_) => assert_eq!(differ, 1, "only a payload is judged by itself: byte {at}"),
            Err(error) => assert!(matches!(error, LogError::Damaged { .. } | LogError::Failed(_)), "{error}"),
        }
        assert_eq!(fs::read(&file).unwrap(), before, "nothing is changed");
        flip(&file, at, mask);
    }
    check::<LogError>(folder.path(), |_| Ok(())).unwrap();
}

/// What was acknowledged and is lost is missed, also where the process was killed; and so is a bit in the newest batch.
#[test]
fn each_loss_is_found() {
    let mut tried = sample();
    let newest = tried.log().newest();
    let path = tried.path();
    // As after a kill: the log is not closed in order.
    let killed = copy(&path);
    let segment = killed.path().join("00000000.log");
    let refused = |why: &str| {
        let error = open(killed.path(), Mark::START).err().expect(why);
        assert!(matches!(error, LogError::Damaged { .. } | LogError::Failed(_)), "{error}");
    };
    flip(&segment, u64::from(newest.start) + 50, 1);
    refused("a flipped bit in the newest batch is damage, since it was acknowledged");
    fs::copy(path.join("00000000.log"), &segment).unwrap();
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&vec![0; (newest.end - newest.start) as usize], newest.start.into()).unwrap();
    refused("the newest batch is missing");
    fs::copy(path.join("00000000.log"), &segment).unwrap();
    OpenOptions::new().write(true).open(&segment).unwrap().set_len(newest.start.into()).unwrap();
    refused("the segment is cut");
    fs::copy(path.join("00000000.log"), &segment).unwrap();
    fs::remove_file(killed.path().join(ACKNOWLEDGED)).unwrap();
    refused("nobody knows what was acknowledged");
    fs::copy(path.join(ACKNOWLEDGED), killed.path().join(ACKNOWLEDGED)).unwrap();
    fs::remove_file(&segment).unwrap();
    refused("the segment is missing");
    fs::copy(path.join("00000000.log"), &segment).unwrap();
    open(killed.path(), newest).unwrap();
    let beyond = Mark { number: newest.number + 1, start: newest.end, end: newest.end + 48, ..newest };
    assert!(matches!(open(killed.path(), beyond), Err(LogError::NoSuchMark(_))));
}

/// A batch before the newest is damage even where nobody knows any more what was acknowledged: another one followed it.
#[test]
fn what_was_followed_was_acknowledged() {
    let mut tried = sample();
    let newest = tried.log().newest();
    let killed = copy(&tried.path());
    let file = OpenOptions::new().write(true).open(killed.path().join(ACKNOWLEDGED)).unwrap();
    Acknowledged { mark: Mark::START, is_closed: false }.write(&file, SEED).unwrap();
    let segment = killed.path().join("00000000.log");
    flip(&segment, 60, 1);
    assert!(matches!(open(killed.path(), Mark::START), Err(LogError::Damaged { segment: 0, offset: 48, .. })));
    flip(&segment, 60, 1);
    // Of the newest itself nobody can say that it is no trace of a crash.
    flip(&segment, u64::from(newest.start) + 20, 1);
    let (log, _, found) = open(killed.path(), Mark::START).unwrap();
    assert_eq!(log.newest().number, newest.number - 1);
    assert_eq!(found.len(), tried.kept.len() - 1);
}

/// Nobody reads half of an erasure, and after it nobody reads what was erased.
#[test]
fn an_erasure_is_seen_whole() {
    let mut tried = Tried::new();
    let payload = vec![3; 200_000];
    for _ in 0..20 {
        tried.write(&[(Vec::new(), vec![payload.clone()])]);
    }
    let (log, reader) = tried.log.take().unwrap();
    let places: Vec<Place> = tried.kept.iter().map(|kept| kept.place).collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut left = places.clone();
                    while !left.is_empty() {
                        left.retain(|&place| match reader.record(place).unwrap().payload(0).unwrap() {
                            Payload::Whole(bytes) => bytes == payload,
                            Payload::Erased => false,
                            Payload::Damaged => panic!("half an erasure was read"),
                        });
                    }
                })
            })
            .collect();
        for &place in &places {
            let payload = reader.record(place).unwrap().payload_place(place, 0).unwrap();
            log.erase(&[payload]).unwrap();
            assert_eq!(reader.record(place).unwrap().payload(0), Some(Payload::Erased));
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// The file system gets back what a finished segment did not use, and the blocks of what was erased.
#[test]
fn space_that_is_not_used_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let mut tried = Tried::new();
    for _ in 0..5 {
        tried.write(&[(Vec::new(), vec![vec![1; 600_000]])]);
    }
    let length = |number: u32| fs::metadata(segments::path(tried.folder.path(), number)).unwrap().len();
    assert_eq!(length(0), u64::from(tried.marks[1].end));
    let blocks = |tried: &Tried| fs::metadata(segments::path(&tried.path(), 0)).unwrap().blocks();
    let before = blocks(&tried);
    tried.erase(0, false);
    tried.audit();
    // Not every file system can.
    assert!(blocks(&tried) <= before);
}

/// As after a cut of the power: the file `acknowledged` is as old as it can be.
fn forget_acknowledged(folder: &Path) {
    let file = OpenOptions::new().write(true).open(folder.join(ACKNOWLEDGED)).unwrap();
    Acknowledged { mark: Mark::START, is_closed: false }.write(&file, SEED).unwrap();
}

/// A batch that was torn shows that the one before it was synced: damage to that is found, though nobody knows any more what was
/// acknowledged.
#[test]
fn a_torn_batch_shows_that_the_one_before_was_acknowledged() {
    let tried = sample();
    let killed = copy(&tried.path());
    forget_acknowledged(killed.path());
    let segment = killed.path().join("00000000.log");
    let [.., before, newest] = tried.marks[..] else { unreachable!() };
    flip(&segment, u64::from(newest.start) + 20, 1);
    flip(&segment, u64::from(before.start) + 50, 1);
    let error = open(killed.path(), Mark::START).err().expect("the batch before the torn one is damaged");
    assert!(matches!(error, LogError::Damaged { segment: 0, .. }), "{error}");
}

/// Of a batch whose payload was erased only the announcement is cut, where that is the newest and does not hold.
#[test]
fn an_announcement_that_does_not_hold_takes_nothing_with_it() {
    let mut tried = Tried::new();
    tried.write(&[(b"plain".to_vec(), vec![b"payload".to_vec()])]);
    tried.erase(0, false);
    let killed = copy(&tried.path());
    forget_acknowledged(killed.path());
    flip(&killed.path().join("00000000.log"), u64::from(tried.marks[2].start) + 20, 1);
    let (log, _, found) = open(killed.path(), Mark::START).unwrap();
    assert_eq!((log.newest(), found), (tried.marks[1], tried.kept));
}

/// A log with a batch in each of three segments, and a copy of it as after a cut of the power.
fn three_segments() -> (Tried, tempfile::TempDir) {
    let mut tried = Tried::new();
    for _ in 0..3 {
        tried.write(&[(b"first".to_vec(), vec![vec![1; 900_000]])]);
        tried.write(&[(b"second".to_vec(), vec![vec![1; 100_000]])]);
    }
    assert_eq!(tried.marks.iter().map(|mark| mark.segment).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 2, 2]);
    let killed = copy(&tried.path());
    forget_acknowledged(killed.path());
    (tried, killed)
}

#[test]
fn a_segment_that_is_lost_is_missed() {
    let (_tried, killed) = three_segments();
    let file = OpenOptions::new().write(true).open(segments::path(killed.path(), 1)).unwrap();
    file.set_len(0).unwrap();
    file.set_len(1 << 20).unwrap();
    let error = open(killed.path(), Mark::START).err().expect("the segment is empty, but another follows it");
    assert!(matches!(error, LogError::Damaged { segment: 1, .. }), "{error}");
}

#[test]
fn a_segment_that_was_begun_shows_what_was_acknowledged_before_it() {
    let (tried, killed) = three_segments();
    // The last batch of a segment is lost, and the first of the next was torn.
    let cut = OpenOptions::new().write(true).open(segments::path(killed.path(), 1)).unwrap();
    cut.set_len(tried.marks[4].start.into()).unwrap();
    let torn = OpenOptions::new().write(true).open(segments::path(killed.path(), 2)).unwrap();
    torn.set_len(segments::HEAD as u64).unwrap();
    torn.set_len(1 << 20).unwrap();
    let error = open(killed.path(), Mark::START).err().expect("a batch is lost");
    assert!(matches!(error, LogError::Damaged { segment: 2, .. }), "{error}");
}

/// A process that is killed before its sync leaves a batch that can be read and is not durable. It is written again before it
/// counts as acknowledged.
#[test]
fn what_is_found_is_made_durable() {
    let tried = sample();
    let killed = copy(&tried.path());
    forget_acknowledged(killed.path());
    let segment = File::options().write(true).open(killed.path().join("00000000.log")).unwrap();
    segment.set_modified(std::time::UNIX_EPOCH).unwrap();
    drop(open(killed.path(), Mark::START).unwrap());
    assert_ne!(segment.metadata().unwrap().modified().unwrap(), std::time::UNIX_EPOCH);
}

/// The first start was interrupted when it had made the file, but not written it.
#[test]
fn an_acknowledged_that_was_never_written_is_written() {
    for left in [Vec::new(), vec![0; Mark::BYTES + 9]] {
        let mut tried = Tried::new();
        tried.log = None;
        fs::write(tried.path().join(ACKNOWLEDGED), &left).unwrap();
        tried.log = Some(open(&tried.path(), Mark::START).map(|(log, reader, _)| (log, reader)).unwrap());
        tried.write(&[(b"plain".to_vec(), Vec::new())]);
        tried.log = None;
        fs::write(tried.path().join(ACKNOWLEDGED), &left).unwrap();
        assert!(matches!(open(&tried.path(), Mark::START), Err(LogError::Failed(_))), "there are batches");
    }
}

/// A segment was taken and not written to, and the one after it was prepared: that one must not be left after a gap.
#[test]
fn of_empty_segments_one_is_kept() {
    let mut tried = Tried::new();
    tried.write(&[(b"plain".to_vec(), Vec::new())]);
    tried.log().reserve(1 << 20).unwrap();
    let second = segments::path(&tried.path(), 2);
    while !second.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    tried.reopen(0);
    assert!(segments::path(&tried.path(), 1).exists());
    assert!(!second.exists());
}

/// The mark of the newest batch can be gone on from, also where the next batch has a new segment; no other mark is taken for one.
#[test]
fn only_marks_of_batches_are_gone_on_from() {
    let mut tried = Tried::new();
    tried.write(&[(b"plain".to_vec(), Vec::new())]);
    tried.log().reserve(1 << 20).unwrap();
    let newest = tried.log().newest();
    assert_eq!(newest, tried.marks[1]);
    let records = [(b"torn".to_vec(), vec![vec![1; 1 << 20]])];
    tried.tear(&records, &[true, false], false);
    assert_eq!(tried.log().newest(), newest);
    tried.reopen(1);
    tried.log = None;
    for mark in [
        Mark { end: 5_000, ..Mark::START },
        Mark { segment: 7, ..Mark::START },
        Mark { checksum: 1, ..Mark::START },
        Mark { end: newest.end + 8, ..newest },
        Mark { start: u32::MAX, end: 0, ..newest },
        Mark { segment: u32::MAX, ..newest },
    ] {
        assert!(matches!(open(&tried.path(), mark), Err(LogError::NoSuchMark(_))), "{mark:?}");
    }
}

/// A batch that was given a place and is dropped, or comes too late, fails those after it, and what was written is there.
#[test]
fn nothing_is_written_after_a_gap() {
    let mut tried = Tried::new();
    tried.write(&[(b"plain".to_vec(), Vec::new())]);
    let records = [(b"other".to_vec(), Vec::new())];
    let (early, _) = tried.place(&records);
    let (late, _) = tried.place(&records);
    late.write().expect_err("the one before it is not written");
    early.write().expect_err("the log is closed");
    tried.reopen(0);
    tried.audit();
}

/// Whatever a place says, nothing is read there but a record, and memory is bounded.
#[test]
fn a_wrong_place_is_an_error() {
    let tried = sample();
    let (_, reader) = tried.log.as_ref().unwrap();
    let place = tried.kept[0].place;
    for wrong in [
        Place { segment: 1_000, ..place },
        Place { segment: u32::MAX, offset: u32::MAX, length: u32::MAX },
        Place { offset: place.offset + 1, ..place },
        Place { offset: u32::MAX, ..place },
        Place { length: 0, ..place },
        Place { length: place.length + 1, ..place },
    ] {
        assert!(matches!(reader.record(wrong), Err(LogError::Damaged { .. })), "{wrong:?}");
    }
    let error = reader.record(Place { length: u32::MAX, ..place }).unwrap_err();
    assert!(error.to_string().contains("no record is as long"), "it is refused before memory is taken for it: {error}");
}
