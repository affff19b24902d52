//! Each rule, broken once; and the states of released versions.

use std::path::Path;

use common::state::golden::check;
use common::state::{Limits, read_state, write_state};

use super::*;

fn rect(x: u32, y: u32, width: u32, height: u32) -> RectV1 {
    RectV1 {
        x,
        y,
        width,
        height,
    }
}

fn resources() -> Vec<ResourceV1> {
    let image = ResourceV1 {
        id: 3,
        kind: ResourceKindV1::Image(ImageV1 {
            format: 67,
            width: 130,
            height: 18,
            tiles: TilesV1 {
                kinds: vec![0, 1, 2],
                checksums: vec![0x1234_5678],
            },
        }),
        backing: vec![
            PieceV1 {
                address: 0x1_0000_0000,
                len: 4096,
            },
            PieceV1 {
                address: 0x2000,
                len: 8192,
            },
        ],
        uuid: Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    };
    let blob = ResourceV1 {
        id: 70_000,
        kind: ResourceKindV1::Blob(BlobV1 {
            size: 4_000,
            flags: 5,
            id: 0x9_8765_4321,
        }),
        backing: vec![PieceV1 {
            address: 0x7000,
            len: 4_001,
        }],
        uuid: None,
    };
    vec![image, blob]
}

/// Everything there can be, once.
fn typical() -> GpuState {
    GpuState {
        device: DeviceV1 {
            features: 0b1110,
            modes: (0..16)
                .map(|index| ModeV1 {
                    rect: rect(index * 100, 7, 640 + index, 480 + index),
                    enabled: index == 1,
                    flags: 0,
                })
                .collect(),
        },
        resources: resources(),
        heads: vec![
            HeadV1 {
                number: 1,
                scanout: Some(ScanoutV1 {
                    resource: 3,
                    rect: rect(5, 1, 120, 17),
                    layout: LayoutV1 {
                        format: 67,
                        width: 130,
                        height: 18,
                        stride: 520,
                        offset: 0,
                    },
                    tiles: TilesV1 {
                        kinds: vec![0, 0],
                        checksums: vec![0x9abc_def0, 0x0fed_cba9],
                    },
                }),
                cursor: Some(CursorV1 {
                    x: 11,
                    y: 12,
                    hot_x: 13,
                    hot_y: 14,
                    visible: true,
                    image: Some(CursorImageV1 {
                        rect: rect(21, 22, 3, 2),
                        pixels: (100..124).collect(),
                    }),
                }),
                edid: vec![31, 32, 33],
            },
            HeadV1 {
                number: 15,
                scanout: Some(ScanoutV1 {
                    resource: 70_000,
                    rect: rect(1, 0, 16, 16),
                    layout: LayoutV1 {
                        format: 121,
                        width: 17,
                        height: 18,
                        stride: 200,
                        offset: 44,
                    },
                    tiles: TilesV1 {
                        kinds: vec![1],
                        checksums: vec![],
                    },
                }),
                cursor: None,
                edid: Vec::new(),
            },
        ],
        pixels: vec![(0..2 * 18 * 4).collect()],
    }
}

fn fresh() -> GpuState {
    GpuState {
        device: DeviceV1 {
            features: 0,
            modes: Vec::new(),
        },
        resources: Vec::new(),
        heads: Vec::new(),
        pixels: Vec::new(),
    }
}

#[test]
fn golden_states() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for state in [typical(), fresh()] {
        assert_eq!(state.validate(), Ok(()));
    }
    check(&folder, &[("typical", typical()), ("fresh", fresh())]);
}

fn image(state: &mut GpuState) -> &mut ImageV1 {
    match &mut state.resources[0].kind {
        ResourceKindV1::Image(image) => image,
        ResourceKindV1::Blob(_) => unreachable!("the first one is an image"),
    }
}

fn blob(state: &mut GpuState) -> &mut BlobV1 {
    match &mut state.resources[1].kind {
        ResourceKindV1::Blob(blob) => blob,
        ResourceKindV1::Image(_) => unreachable!("the second one is a blob"),
    }
}

fn scanout(state: &mut GpuState, head: usize) -> &mut ScanoutV1 {
    state.heads[head].scanout.as_mut().unwrap()
}

fn cursor_image(state: &mut GpuState) -> &mut CursorImageV1 {
    let cursor = state.heads[0].cursor.as_mut().unwrap();
    cursor.image.as_mut().unwrap()
}

type Change = fn(&mut GpuState);

const FORGERIES: [(&str, Change); 44] = [
    ("some modes", |state| state.device.modes.truncate(15)),
    ("resource 0", |state| state.resources[0].id = 0),
    ("resources in disorder", |state| state.resources.reverse()),
    ("a resource twice", |state| state.resources[1].id = 3),
    ("too many resources", |state| {
        let blob = state.resources[1].clone();
        state.resources = (1..=16385)
            .map(|id| ResourceV1 { id, ..blob.clone() })
            .collect();
        state.heads.clear();
        state.pixels.clear();
    }),
    ("no format", |state| image(state).format = 5),
    ("no width", |state| image(state).width = 0),
    ("no height", |state| image(state).height = 0),
    ("another width", |state| image(state).width = 300),
    ("the greatest size", |state| {
        (image(state).width, image(state).height) = (u32::MAX, u32::MAX);
    }),
    ("a tile more", |state| image(state).tiles.kinds.push(1)),
    ("a tile less", |state| image(state).tiles.kinds.truncate(2)),
    ("a tile of no kind", |state| image(state).tiles.kinds[1] = 3),
    ("a checksum more", |state| {
        image(state).tiles.checksums.push(1);
    }),
    ("a checksum less", |state| {
        image(state).tiles.checksums.clear();
    }),
    ("another tile carried", |state| {
        image(state).tiles.kinds[1] = 2;
    }),
    ("memory without a backing", |state| {
        state.resources[0].backing.clear();
    }),
    ("an empty piece", |state| {
        state.resources[0].backing[1].len = 0;
    }),
    ("a piece beyond all", |state| {
        state.resources[0].backing[1].address = u64::MAX;
    }),
    ("pieces longer than all", |state| {
        let piece = PieceV1 {
            address: 0,
            len: 1 << 63,
        };
        state.resources[0].backing = vec![piece.clone(), piece];
    }),
    ("too many pieces", |state| {
        let piece = state.resources[0].backing[0].clone();
        state.resources[0].backing = vec![piece; 16385];
    }),
    ("an empty blob", |state| blob(state).size = 0),
    ("a blob larger than its backing", |state| {
        blob(state).size = 4_002;
    }),
    ("flags of a blob", |state| blob(state).flags = 8),
    ("screens in disorder", |state| state.heads.reverse()),
    ("a screen twice", |state| state.heads[1].number = 1),
    ("a screen too many", |state| state.heads[1].number = 16),
    ("a long EDID", |state| state.heads[0].edid = vec![0; 1025]),
    ("a scanout of nothing", |state| {
        scanout(state, 0).resource = 4;
    }),
    ("a scanout of 0", |state| scanout(state, 0).resource = 0),
    ("a scanout of a blob, laid out like an image", |state| {
        scanout(state, 0).resource = 70_000;
    }),
    ("an image laid out otherwise", |state| {
        scanout(state, 0).layout.stride = 524;
    }),
    ("an image at an offset", |state| {
        scanout(state, 0).layout.offset = 4;
    }),
    ("a scanout beyond the framebuffer", |state| {
        scanout(state, 0).rect.x = 11;
    }),
    ("a scanout beyond all numbers", |state| {
        scanout(state, 0).rect.x = u32::MAX;
    }),
    ("a small scanout", |state| {
        scanout(state, 1).rect.width = 15;
    }),
    ("a framebuffer beyond the blob", |state| {
        scanout(state, 1).layout.height = 21;
    }),
    ("a framebuffer beyond all numbers", |state| {
        let layout = &mut scanout(state, 1).layout;
        (layout.height, layout.stride, layout.offset) = (u32::MAX, u32::MAX, u32::MAX);
    }),
    ("rows in each other", |state| {
        scanout(state, 1).layout.stride = 67;
    }),
    ("a framebuffer of no format", |state| {
        scanout(state, 1).layout.format = 0;
    }),
    ("a screen from memory that is not there", |state| {
        state.resources[1].backing.clear();
        scanout(state, 1).tiles.kinds = vec![0];
        scanout(state, 1).tiles.checksums = vec![1];
    }),
    ("a large cursor", |state| cursor_image(state).rect.x = 62),
    ("a cursor of more pixels", |state| {
        cursor_image(state).pixels.push(0);
    }),
    ("pixels of nothing", |state| state.pixels.push(vec![0])),
];

#[test]
fn states_that_make_no_sense_are_refused() {
    for (what, change) in FORGERIES {
        let mut state = typical();
        change(&mut state);
        assert!(state.validate().is_err(), "{what}");
    }
}

/// Pixels are in pieces whatever their number is; no piece is large.
#[test]
fn pixels_travel_in_pieces() {
    let mut state = typical();
    let bytes = 1024 * 1024 * 4_usize;
    image(&mut state).width = 1024;
    image(&mut state).height = 1024;
    image(&mut state).tiles = TilesV1 {
        kinds: vec![2; 256],
        checksums: Vec::new(),
    };
    state.heads.clear();
    state.pixels = vec![vec![5; CHUNK_BYTES_MAX]; bytes / CHUNK_BYTES_MAX];
    assert_eq!(state.validate(), Ok(()));
    let mut stream = Vec::new();
    write_state(&state, GpuState::VERSION, &mut stream).unwrap();
    let back: GpuState = read_state(&mut stream.as_slice(), &Limits::default()).unwrap();
    assert_eq!(back, state);
    assert!(
        back.pixels
            .iter()
            .all(|piece| piece.len() <= CHUNK_BYTES_MAX)
    );
}

#[test]
fn a_section_that_is_missing_is_missed() {
    struct Partial(GpuState);
    impl StateSchema for Partial {
        const KIND: DeviceKind = DeviceKind::Gpu;
        const VERSION: u16 = 1;
        const VERSION_OLDEST: u16 = 1;
        const SUPPORT: SchemaSupport = SchemaSupport::Savable;

        fn write(&self, out: &mut StateWriter<'_>) -> Result<(), StateError> {
            out.section(DEVICE, 1, Importance::Critical, &self.0.device)?;
            out.table(RESOURCES, 1, Importance::Critical, &self.0.resources)
        }

        fn read(_: &mut StateReader<'_>) -> Result<Self, StateError> {
            unreachable!("only written")
        }
    }
    let mut stream = Vec::new();
    write_state(&Partial(typical()), 1, &mut stream).unwrap();
    let error = read_state::<GpuState>(&mut stream.as_slice(), &Limits::default()).unwrap_err();
    assert!(matches!(error, StateError::MissingSection { tag } if tag == HEADS));
}
