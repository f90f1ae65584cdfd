//! The write-ahead log of a SQLite file as it lies on the disk. The format: <https://sqlite.org/fileformat2.html>, section 4.

use super::pages::PAGE;

const HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
const FRAME: usize = FRAME_HEAD + PAGE;

/// How many uses of a log may have passed since what is left of one behind the present one.
const USES: u32 = 1 << 16;

/// A frame of the log's present use.
pub struct Frame<'a> {
    /// Which page it is of.
    pub page: u32,
    /// Where a transaction ends with it: how many pages the file has then. Else 0.
    pub pages: u32,
    /// Whether its checksum is right, which counts from the one that the frame before it states.
    pub sound: bool,
    /// The page, or what is left of it.
    pub image: &'a [u8],
}

/// A log.
#[derive(Default)]
pub struct Log<'a> {
    /// Without those of a transaction that did not come to its end.
    pub frames: Vec<Frame<'a>>,
    /// Frames that SQLite reads.
    pub read: usize,
    /// Frames that SQLite does not read, because one of them or the log's head is damaged.
    pub unread: usize,
    /// Whether the log goes on behind what SQLite reads, be it damaged or only unfinished.
    pub goes_on: bool,
}

impl<'a> Log<'a> {
    /// Looks at every frame.
    pub fn of(log: &'a [u8]) -> Self {
        let mut found = Log::default();
        let Some(head) = log.get(..HEAD) else { return found };
        let (big_endian, sound_head) = order(head);
        let raw: Vec<&[u8]> = log[HEAD..].chunks(FRAME).filter(|frame| frame.len() > FRAME_HEAD).collect();
        let stated = |i: usize| if i == 0 { &head[24..32] } else { &raw[i - 1][16..24] };
        // There is no page 0: zeros have the checksum of zeros.
        let whole = |frame: &[u8]| frame.len() == FRAME && frame[..4] != [0; 4];
        let chained: Vec<bool> = (0..raw.len())
            .map(|i| whole(raw[i]) && Sums::stated(stated(i), big_endian).follow(raw[i]))
            .collect();
        // Where the head does not say it, the salt is the first that two frames agree on.
        let agree =
            |pair: &&[&[u8]]| pair.iter().all(|frame| whole(frame)) && pair[0][8..16] == pair[1][8..16];
        let salt = match (sound_head, raw.windows(2).find(agree), raw.first()) {
            (true, ..) => &head[16..24],
            (false, Some(pair), _) => &pair[0][8..16],
            (false, None, Some(frame)) => &frame[8..16],
            (false, None, None) => return found,
        };
        // Salts are not under the checksum: a frame that follows one of the present use is of it, whatever its salt says.
        let mut before = true;
        let present: Vec<bool> = (0..raw.len())
            .map(|i| {
                before = &raw[i][8..16] == salt || chained[i] && before;
                before
            })
            .collect();
        let end = present.iter().rposition(|present| *present).map_or(0, |last| last + 1);
        // Behind it may lie what is left of earlier uses; all else is damage.
        let end = match raw[end..]
            .iter()
            .rposition(|frame| frame.len() == FRAME && !(whole(frame) && is_left(frame, salt)))
        {
            Some(last) => end + last + 1,
            None => end,
        };
        let mut reads = sound_head;
        let mut damaged = false;
        for (i, frame) in raw[..end].iter().enumerate() {
            let (sound, pages) = (chained[i] && present[i], word(&frame[4..8]));
            let salted = &frame[8..16] == salt;
            reads &= sound && salted;
            if reads && pages > 0 {
                found.read = i + 1;
            }
            // The end of the process leaves frames of a transaction without its last one, and a frame cut short.
            damaged |= !reads && frame.len() == FRAME && (pages > 0 || !salted);
            found.frames.push(Frame { page: word(&frame[..4]), pages, sound, image: &frame[FRAME_HEAD..] });
        }
        found.goes_on = raw.len() > found.read && end > found.read;
        if damaged {
            found.unread = end - found.read;
        } else {
            found.frames.truncate(found.read);
        }
        found
    }
}

/// Whether a frame may be one that an earlier use has left: each use counts the first half of the salt up by one.
fn is_left(frame: &[u8], salt: &[u8]) -> bool {
    let uses = word(&salt[..4]).wrapping_sub(word(&frame[8..12]));
    (1..=USES).contains(&uses) && frame[12..16] != salt[4..]
}

/// The order of bytes in the words of the checksum, and whether the head is sound.
fn order(head: &[u8]) -> (bool, bool) {
    let (big_endian, known) = match word(&head[..4]) {
        0x377f_0682 => (false, true),
        0x377f_0683 => (true, true),
        // SQLite takes the machine's.
        _ => (cfg!(target_endian = "big"), false),
    };
    let mut sums = Sums { big_endian, s: (0, 0) };
    sums.add(&head[..24]);
    (big_endian, known && sums.s == (word(&head[24..28]), word(&head[28..32])))
}

struct Sums {
    big_endian: bool,
    s: (u32, u32),
}

impl Sums {
    fn stated(bytes: &[u8], big_endian: bool) -> Self {
        Self { big_endian, s: (word(&bytes[..4]), word(&bytes[4..8])) }
    }

    fn add(&mut self, bytes: &[u8]) {
        let read = |at: &[u8]| match self.big_endian {
            true => u32::from_be_bytes(at.try_into().expect("4 bytes")),
            false => u32::from_le_bytes(at.try_into().expect("4 bytes")),
        };
        let (mut a, mut b) = self.s;
        for pair in bytes.chunks_exact(8) {
            a = a.wrapping_add(read(&pair[..4])).wrapping_add(b);
            b = b.wrapping_add(read(&pair[4..])).wrapping_add(a);
        }
        self.s = (a, b);
    }

    fn follow(&mut self, frame: &[u8]) -> bool {
        self.add(&frame[..8]);
        self.add(&frame[FRAME_HEAD..]);
        self.s == (word(&frame[16..20]), word(&frame[20..24]))
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("4 bytes"))
}
