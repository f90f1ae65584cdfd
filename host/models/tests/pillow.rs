//! Pictures against Pillow's, byte for byte; tests/oracles/diffusion/make_pillow_goldens.py made the goldens.

use reverie_models::pillow::{self, Filter};
use safetensors::SafeTensors;

mod fixtures;

#[test]
fn bytes_are_pillows() {
    let file = std::fs::read(fixtures::folder("pillow").join("goldens.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&file).unwrap();
    let bytes = |name: &str| goldens.tensor(name).unwrap().data().to_vec();
    let mut seen = 0;
    for (name, view) in goldens.iter() {
        let &[mode, filter, size] = name.split('/').collect::<Vec<_>>().as_slice() else { continue };
        let filter = match filter {
            "nearest" => Filter::Nearest,
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            "lanczos" => Filter::Lanczos,
            other => panic!("{other}"),
        };
        let source = goldens.tensor(mode).unwrap();
        let (height, width) = (source.shape()[0], source.shape()[1]);
        let channels = if mode == "RGB" { 3 } else { 1 };
        let (new_width, new_height) = size.split_once('x').unwrap();
        let size = [new_width, new_height].map(|side| side.parse().unwrap());
        let resized = pillow::resize(source.data(), [width, height], channels, size, filter);
        assert!(resized == view.data(), "{name}");
        seen += 1;
    }
    assert!(seen >= 40, "{seen}");
    assert_eq!(pillow::grey(&bytes("RGB")), bytes("grey"));
    // Luma's weights to the last bit: of each channel all values.
    assert_eq!(pillow::grey(&bytes("ramps")), bytes("ramps_grey"));
}
