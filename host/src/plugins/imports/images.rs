//! Pictures. The work runs on blocking threads.

use std::sync::Arc;

use image::DynamicImage;
use reverie_memory::{Kept, Use};
use wasmtime::component::Resource;

use super::{
    super::{
        bindings::reverie::handler::{images as wit, types},
        instance::CallState,
    },
    Blob,
};
use crate::{
    error::Error,
    pictures::{
        self, Encoding, Format,
        pillow::{self, Filter},
    },
};

/// A decoded picture that the host holds for a guest.
pub struct Picture(pub Arc<Kept<DynamicImage>>);

type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

impl CallState {
    /// Runs work off the async threads. A panic in a decoder is an error of this one call.
    fn on_picture<T, W>(&self, work: W) -> impl Future<Output = Result<T, Error>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T, Error> + Send + 'static,
    {
        let done = self.blocking(work);
        async move {
            done.await.unwrap_or_else(|_| {
                Err(Error::internal("the picture could not be processed (a fault of the server)"))
            })
        }
    }

    /// Keeps a picture, which holds memory of the server's itself.
    pub(super) fn picture(&mut self, made: Kept<DynamicImage>) -> Result<Resource<Picture>, Error> {
        let part = self.memory.count(made.held.bytes())?;
        Ok(self.resources.push(Picture(Arc::new(made)), part)?)
    }

    fn pictured(&mut self, made: Result<Kept<DynamicImage>, Error>) -> Answer<Resource<Picture>> {
        Ok(made.and_then(|made| self.picture(made)).map_err(Into::into))
    }
}

impl wit::Host for CallState {
    async fn decode(&mut self, blob: Resource<Blob>) -> Answer<Resource<Picture>> {
        let content = self.resources.get(&blob)?.content.clone();
        let limit = self.services.config.images.max_input_pixels;
        let memory = self.services.memory.clone();
        let decoded = self.on_picture(move || pictures::decode(&content, limit, &memory)).await;
        self.pictured(decoded)
    }
}

impl wit::HostImage for CallState {
    fn from_rgba(&mut self, width: u32, height: u32, pixels: Vec<u8>) -> Answer<Resource<Picture>> {
        let made = pictures::check_size(width, height, self.services.config.images.max_output_pixels);
        let made = made.and_then(|()| {
            let given = pixels.len();
            let held = self.services.memory.hold(Use::Pictures, given)?;
            let picture = image::RgbaImage::from_raw(width, height, pixels);
            // `from_raw` accepts a longer buffer.
            let fits = given as u64 == u64::from(width) * u64::from(height) * 4;
            let picture = picture.filter(|_| fits).ok_or_else(|| {
                Error::invalid(format!("{given} bytes are not the pixels of a {width}x{height} RGBA picture"))
            })?;
            Ok(held.with(DynamicImage::ImageRgba8(picture)))
        });
        self.pictured(made)
    }

    fn width(&mut self, picture: Resource<Picture>) -> wasmtime::Result<u32> {
        Ok(self.resources.get(&picture)?.0.width())
    }

    fn height(&mut self, picture: Resource<Picture>) -> wasmtime::Result<u32> {
        Ok(self.resources.get(&picture)?.0.height())
    }

    fn has_alpha(&mut self, picture: Resource<Picture>) -> wasmtime::Result<bool> {
        Ok(self.resources.get(&picture)?.0.color().has_alpha())
    }

    async fn encode(
        &mut self,
        picture: Resource<Picture>,
        format: wit::Format,
        quality: u8,
    ) -> Answer<Resource<Blob>> {
        self.encode_with_texts(picture, format, quality, Vec::new()).await
    }

    async fn encode_with_parameters(
        &mut self,
        picture: Resource<Picture>,
        format: wit::Format,
        quality: u8,
        parameters: String,
    ) -> Answer<Resource<Blob>> {
        let given = Some(parameters).filter(|parameters| !parameters.is_empty());
        let texts = given.map(|parameters| ("parameters".to_owned(), parameters)).into_iter().collect();
        self.encode_with_texts(picture, format, quality, texts).await
    }

    async fn encode_with_texts(
        &mut self,
        picture: Resource<Picture>,
        format: wit::Format,
        quality: u8,
        texts: Vec<(String, String)>,
    ) -> Answer<Resource<Blob>> {
        let picture = self.resources.get(&picture)?.0.clone();
        let format = match format {
            wit::Format::Png => Format::Png,
            wit::Format::Jpeg => Format::Jpeg,
            wit::Format::Webp => Format::Webp,
        };
        let memory = self.services.memory.clone();
        let encoded = self.on_picture(move || {
            let mut content = pictures::encode(&picture, Encoding { format, quality }, &memory)?;
            if format == Format::Png {
                content
                    .held
                    .grow(texts.iter().map(|(keyword, text)| keyword.len() + text.len() + 64).sum())?;
                pictures::add_texts(&mut content, &texts)?;
            }
            let (content, held) = content.apart();
            Ok(held.with_bytes(content))
        });
        let encoded = encoded.await;
        let media_type = format.media_type().to_owned();
        Ok(encoded.and_then(|content| self.shared_blob(Blob { content, media_type })).map_err(Into::into))
    }

    async fn resize(
        &mut self,
        picture: Resource<Picture>,
        width: u32,
        height: u32,
        filter: wit::Filter,
    ) -> Answer<Resource<Picture>> {
        let picture = self.resources.get(&picture)?.0.clone();
        let limit = self.services.config.images.max_output_pixels;
        let filter = match filter {
            wit::Filter::Nearest => Filter::Nearest,
            wit::Filter::Bilinear => Filter::Bilinear,
            wit::Filter::Bicubic => Filter::Bicubic,
            wit::Filter::Lanczos3 => Filter::Lanczos,
        };
        let (memory, own) = (self.services.memory.clone(), self.memory.clone());
        let resized = self.on_picture(move || {
            pictures::check_size(width, height, limit)?;
            let bytes = pillow::bytes_to_resize(&picture, width, height);
            own.count(bytes)?;
            let held = memory.hold(Use::Pictures, bytes)?;
            let mut resized = held.with(pillow::resize(&picture, width, height, filter));
            let over = resized.held.bytes().saturating_sub(resized.as_bytes().len());
            resized.held.shrink(over);
            Ok(resized)
        });
        let resized = resized.await;
        self.pictured(resized)
    }

    fn rgba(&mut self, picture: Resource<Picture>) -> wasmtime::Result<Vec<u8>> {
        let picture = &self.resources.get(&picture)?.0;
        self.memory.check((u64::from(picture.width()) * u64::from(picture.height()) * 4) as usize)?;
        Ok(picture.to_rgba8().into_raw())
    }

    fn drop(&mut self, picture: Resource<Picture>) -> wasmtime::Result<()> {
        self.resources.delete(picture)
    }
}
