//! The pages of a SQLite file and of its write-ahead log as they lie on the disk, for when SQLite itself can't or won't read
//! them. The format: <https://sqlite.org/fileformat2.html>, section 1.6.

use std::collections::BTreeMap;

use super::log::Log;

/// Bytes of a page; the store's files are made with it.
pub const PAGE: usize = 4096;

/// The images of each page, whether or not SQLite would read them: the newest, and older ones where it may be damaged.
pub struct Pages<'a>(BTreeMap<u32, Vec<Image<'a>>>);

struct Image<'a> {
    bytes: &'a [u8],
    sound: bool,
}

/// Which image of a page a chain goes through.
#[derive(Clone, Copy)]
enum Choice {
    Newest,
    NewestSound,
    Oldest,
}

impl<'a> Pages<'a> {
    /// Of a file and its log.
    pub fn of(file: &'a [u8], log: &Log<'a>) -> Self {
        let page = |bytes| vec![Image { bytes, sound: true }];
        let mut pages: BTreeMap<_, _> = (1..).zip(file.chunks(PAGE).map(page)).collect();
        let mut rest = &log.frames[..];
        // A transaction that is whole takes the place of what was before. One that is not may lack the page to which something
        // was moved, and so may those that build on it.
        while let Some(last) = rest.iter().position(|frame| frame.pages > 0 || !frame.sound) {
            if !rest[last].sound {
                break;
            }
            let (transaction, others) = rest.split_at(last + 1);
            pages.extend(transaction.iter().map(|frame| (frame.page, page(frame.image))));
            rest = others;
        }
        for frame in rest {
            pages.entry(frame.page).or_default().push(Image { bytes: frame.image, sound: frame.sound });
        }
        Self(pages)
    }

    pub fn images(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.0.values().flatten().map(|image| image.bytes)
    }

    /// `length` bytes that begin at `at` of a page's `image` and go on, as those of a row too long for a page do, in pages of
    /// their own: then `local` of them stand in the image, and the number of the next page follows. More than one answer where
    /// those pages have several images; a checksum has to tell which is right.
    pub fn follow(
        &self,
        image: &'a [u8],
        at: usize,
        local: usize,
        length: usize,
    ) -> impl Iterator<Item = Vec<u8>> + '_ {
        let choices = match local >= length {
            true => &[Choice::Newest][..],
            false => &[Choice::Newest, Choice::NewestSound, Choice::Oldest],
        };
        choices.iter().filter_map(move |choice| self.chain(image, at, local.min(length), length, *choice))
    }

    fn chain(&self, image: &[u8], at: usize, local: usize, length: usize, choice: Choice) -> Option<Vec<u8>> {
        let mut bytes = image.get(at..at + local)?.to_vec();
        let mut pointer = at + local;
        let mut page = image;
        while bytes.len() < length {
            let next = page.get(pointer..)?.first_chunk()?;
            let images = self.0.get(&u32::from_be_bytes(*next))?;
            let chosen = match choice {
                Choice::Newest => images.last()?,
                Choice::NewestSound => images.iter().rfind(|image| image.sound)?,
                Choice::Oldest => images.first()?,
            };
            (page, pointer) = (chosen.bytes, 0);
            let take = (length - bytes.len()).min(PAGE - 4);
            bytes.extend_from_slice(page.get(4..4 + take)?);
        }
        Some(bytes)
    }
}

/// How many bytes of a row of `payload` bytes stand in a leaf of a table.
pub fn local_bytes(payload: usize) -> usize {
    let usable = PAGE;
    let most = usable - 35;
    if payload <= most {
        return payload;
    }
    let least = (usable - 12) * 32 / 255 - 23;
    let fitting = least + (payload - least) % (usable - 4);
    if fitting <= most { fitting } else { least }
}
