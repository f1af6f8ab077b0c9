//! Kernels from packages made here, and parsers against bytes from anywhere.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use object::write::Object as WriteObject;
use object::{Architecture, BinaryFormat, SectionKind};
use proptest::prelude::*;
use tempfile::TempDir;

use super::boot_image::{BootImageError, ElfKernelError, unwrap};
use super::modules::{
    BOOT_MODULES, LATE_MODULES, ModuleError, ModuleSet, NETWORK_MODULES, SOCKET_MODULES,
};
use super::*;
use crate::progress::NoProgress;

/// Any release name will do.
const RELEASE_NAME: &str = "6.1.0-1-test-amd64";

/// A 64-bit little-endian ELF executable for `machine` with one note in one segment.
fn elf_kernel(machine: u16, note_type: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 4, note_type] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(0x0100_0000u32.to_le_bytes());
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend(2u16.to_le_bytes()); // ET_EXEC
    elf.extend(machine.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    for word in [0u64, 64, 0] {
        elf.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(4u32.to_le_bytes()); // PT_NOTE
    elf.extend(0u32.to_le_bytes());
    for word in [120, 0, 0, note.len() as u64, note.len() as u64, 4] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(note);
    elf
}

fn good_kernel() -> Vec<u8> {
    elf_kernel(62, 18)
}

/// A bzImage around `payload`, with one sector of setup code.
fn boot_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    image.extend([0; 16]);
    image.extend(payload);
    image
}

fn with_size(mut payload: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
    payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
    payload
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4_legacy(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in bytes.chunks(8 << 20) {
        let compressed = lz4_flex::block::compress(block);
        frame.extend(u32::try_from(compressed.len()).unwrap().to_le_bytes());
        frame.extend(compressed);
    }
    frame
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn every_payload_format_is_unwrapped() {
    // Larger than one LZ4 block, so that the frame has several.
    let mut kernel = good_kernel();
    kernel.resize(9 << 20, 7);
    for payload in [
        lz4_legacy(&kernel),
        xz(&kernel),
        zstd(&kernel),
        gzip(&kernel),
    ] {
        let image = boot_image(&with_size(payload, &kernel));
        assert!(unwrap(&image).unwrap() == kernel);
    }
}

#[test]
fn a_kernel_that_cannot_boot_is_refused() {
    let unwrapped = |kernel: &[u8]| unwrap(&boot_image(&gzip(kernel))).unwrap_err();
    assert!(matches!(
        unwrapped(&elf_kernel(183, 18)),
        BootImageError::Kernel(ElfKernelError::WrongMachine { machine: 183, .. })
    ));
    assert!(matches!(
        unwrapped(&elf_kernel(62, 1)),
        BootImageError::Kernel(ElfKernelError::NoPvhEntry)
    ));
    assert!(matches!(
        unwrapped(b"no kernel at all"),
        BootImageError::Kernel(ElfKernelError::NotElf(_))
    ));
}

#[test]
fn damaged_boot_images_are_refused() {
    let kernel = good_kernel();
    let image = boot_image(&with_size(lz4_legacy(&kernel), &kernel));
    let short = unwrap(&image[..image.len() - 1]);
    assert!(matches!(short, Err(BootImageError::PayloadOutside { .. })));
    assert!(matches!(unwrap(b"MZ"), Err(BootImageError::NotABootImage)));
    let unknown = unwrap(&boot_image(b"BZh91AY"));
    assert!(matches!(unknown, Err(BootImageError::UnknownFormat { .. })));
    let mut truncated = lz4_legacy(&kernel);
    truncated.truncate(truncated.len() - 3);
    let truncated = unwrap(&boot_image(&truncated));
    assert!(matches!(
        truncated,
        Err(BootImageError::Decompress { format: "LZ4", .. })
    ));
}

/// A relocatable ELF object with a `.modinfo` that has these dependencies.
fn module(depends: &str) -> Vec<u8> {
    let mut object = WriteObject::new(
        BinaryFormat::Elf,
        Architecture::X86_64,
        object::Endianness::Little,
    );
    let section = object.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    let info = format!("license=GPL\0depends={depends}\0name=x\0");
    object.append_section_data(section, info.as_bytes(), 1);
    object.write().unwrap()
}

fn module_set(directory: &TempDir, modules: &[(&str, &str)], built_in: &str) -> ModuleSet {
    let write = |(name, depends): &(&str, &str)| -> PathBuf {
        let path = directory.path().join(name);
        let bytes = module(depends);
        let bytes = if name.ends_with(".xz") {
            xz(&bytes)
        } else {
            bytes
        };
        fs::write(&path, bytes).unwrap();
        path
    };
    ModuleSet::new(modules.iter().map(write), built_in.to_owned())
}

#[test]
fn modules_come_after_what_they_depend_on() {
    let directory = tempfile::tempdir().unwrap();
    let modules = [
        ("a.ko", "b-x,c"),
        ("b_x.ko.xz", "c"),
        ("c.ko", "core"),
        ("d.ko", ""),
    ];
    let set = module_set(&directory, &modules, "kernel/lib/core.ko\n");
    let names = |modules: &[modules::Module]| -> Vec<String> {
        modules.iter().map(modules::Module::file_name).collect()
    };
    let boot = set.resolve(&["a"], &[]).unwrap();
    assert_eq!(names(&boot), ["c.ko", "b_x.ko", "a.ko"]);
    assert_eq!(
        boot[1].bytes,
        module("c"),
        "compressed modules are decompressed"
    );
    let late = set.resolve(&["d", "a", "core"], &boot).unwrap();
    assert_eq!(
        names(&late),
        ["d.ko"],
        "what is loaded or built in is not loaded again"
    );
}

#[test]
fn a_missing_dependency_is_named_with_its_dependant() {
    let directory = tempfile::tempdir().unwrap();
    let set = module_set(&directory, &[("a.ko", "gone")], "");
    let error = set.resolve(&["a"], &[]).unwrap_err();
    assert_eq!(error.to_string(), "the module gone is missing, needed by a");
}

#[test]
fn a_circle_of_modules_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let set = module_set(&directory, &[("a.ko", "b"), ("b.ko", "a")], "");
    assert!(matches!(
        set.resolve(&["a"], &[]),
        Err(ModuleError::Circle { .. })
    ));
}

proptest! {
    #[test]
    fn arbitrary_boot_images_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = unwrap(&bytes);
        let _ = unwrap(&boot_image(&bytes));
        let _ = unwrap(&boot_image(&lz4_legacy(&bytes)));
    }

    #[test]
    fn a_changed_byte_of_a_boot_image_never_panics(position in 0usize..4096, value: u8) {
        let kernel = good_kernel();
        let mut image = boot_image(&with_size(lz4_legacy(&kernel), &kernel));
        let position = position % image.len();
        image[position] = value;
        let _ = unwrap(&image);
    }

    #[test]
    fn a_changed_byte_of_a_module_never_panics(position in 0usize..4096, value: u8) {
        let mut bytes = module("virtio");
        let position = position % bytes.len();
        bytes[position] = value;
        let _ = modules::dependencies("m", &bytes);
    }

    #[test]
    fn arbitrary_modules_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1024)) {
        let _ = modules::dependencies("m", &bytes);
    }
}

/// Makes a Debian package with a kernel and `modules`, or says why it cannot.
fn kernel_package(directory: &TempDir, modules: &[&str]) -> Option<PathBuf> {
    let root = directory.path().join("package");
    let (boot, lib) = (
        root.join("boot"),
        root.join("lib/modules").join(RELEASE_NAME),
    );
    for path in [&root.join("DEBIAN"), &boot, &lib] {
        fs::create_dir_all(path).unwrap();
    }
    let control = "Package: linux-image-test\nVersion: 1\nArchitecture: amd64\n\
                   Maintainer: Nobody <nobody@localhost>\nDescription: test\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    let kernel = good_kernel();
    let image = boot_image(&with_size(lz4_legacy(&kernel), &kernel));
    fs::write(boot.join(format!("vmlinuz-{RELEASE_NAME}")), image).unwrap();
    fs::write(lib.join("modules.builtin"), "kernel/rng-core.ko\n").unwrap();
    for name in modules {
        fs::write(lib.join(format!("{name}.ko")), module("")).unwrap();
    }
    let deb = directory.path().join("kernel.deb");
    let built = Command::new("dpkg-deb")
        .arg("--build")
        .args([&root, &deb])
        .output();
    match built {
        Ok(output) if output.status.success() => Some(deb),
        other => {
            println!("skipped: dpkg-deb cannot build a package: {other:?}");
            None
        }
    }
}

#[test]
fn a_package_becomes_a_kernel_with_its_modules() {
    let directory = tempfile::tempdir().unwrap();
    let lists = [BOOT_MODULES, LATE_MODULES, NETWORK_MODULES, SOCKET_MODULES];
    let modules = lists.concat();
    let Some(deb) = kernel_package(&directory, &modules) else {
        return;
    };
    let cache = Cache::open(&directory.path().join("cache")).unwrap();

    let kernel = kernel_from_package(&cache, &deb, &NoProgress).unwrap();

    assert_eq!(kernel.release, RELEASE_NAME);
    assert_eq!(fs::read(&kernel.image).unwrap(), good_kernel());
    assert_eq!(kernel.boot_modules.len(), BOOT_MODULES.len());
    assert_eq!(kernel.late_modules.len(), LATE_MODULES.len());
    assert_eq!(kernel.network_modules.len(), NETWORK_MODULES.len());
    assert_eq!(kernel.socket_modules.len(), SOCKET_MODULES.len());
    assert_eq!(prepared_kernel(&cache, &NoProgress).unwrap(), Some(kernel));
}

#[test]
fn a_package_without_a_needed_module_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let Some(deb) = kernel_package(&directory, &BOOT_MODULES[1..]) else {
        return;
    };
    let cache = Cache::open(&directory.path().join("cache")).unwrap();

    let error = kernel_from_package(&cache, &deb, &NoProgress).unwrap_err();

    let KernelError::Modules {
        source: ModuleError::Missing { name, .. },
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(name, BOOT_MODULES[0]);
    assert_eq!(prepared_kernel(&cache, &NoProgress).unwrap(), None);
    assert_eq!(
        fs::read_dir(cache.root().join("staging")).unwrap().count(),
        0
    );
}

#[test]
fn a_file_that_is_no_package_is_an_error_with_the_programs_words() {
    let directory = tempfile::tempdir().unwrap();
    let deb = directory.path().join("kernel.deb");
    fs::write(&deb, "not a package").unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let error = kernel_from_package(&cache, &deb, &NoProgress).unwrap_err();
    assert!(
        matches!(error, KernelError::Command(CommandError::Failed { .. })),
        "{error:?}"
    );
}
