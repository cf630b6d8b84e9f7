//! The kernels compiled for the host, behind the same trait as a device.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use mlff::cuda::{Address, Backend, KernelSource, Launch, Product, SOURCES};
use mlff::{Error, Result};

/// Kernels with faults, to see that they are found.
const FAULTY: [&str; 4] = ["faulty_race", "faulty_shared", "faulty_array", "faulty_barrier"];

/// A process that runs kernels.
pub struct Host {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// Whether threads and blocks run from the last one down.
    pub falling: bool,
}

impl Host {
    /// Starts one with the kernels that need not know a model, or says why there is none.
    pub fn start() -> std::result::Result<Self, String> {
        Self::with(&SOURCES)
    }

    /// Starts one with the kernels given.
    pub fn with(sources: &[KernelSource]) -> std::result::Result<Self, String> {
        if std::env::var_os("MLFF_TEST_HOST").is_some_and(|value| value == "0") {
            return Err("switched off by MLFF_TEST_HOST=0".into());
        }
        // One compiler at a time, and one try for each program.
        type Built = (Vec<KernelSource>, std::result::Result<PathBuf, String>);
        static PROGRAMS: Mutex<Vec<Built>> = Mutex::new(Vec::new());
        let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
        let built = programs.iter().find(|(of, _)| of == sources).map(|(_, program)| program.clone());
        let program = built.unwrap_or_else(|| {
            let program = build(sources);
            programs.push((sources.to_vec(), program.clone()));
            program
        })?;
        drop(programs);
        let mut command = Command::new(program);
        command.env("ASAN_OPTIONS", "detect_leaks=0").env("UBSAN_OPTIONS", "print_stacktrace=1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let said = BufReader::new(child.stderr.take().unwrap());
        // The sanitizer warns of fibers whenever it meets them. Fibers that it does not understand would make it find
        // faults where there are none, not the other way round.
        std::thread::spawn(move || {
            let lines = said.lines().map_while(|line| line.ok());
            lines.filter(|line| !line.contains("makecontext/swapcontext")).for_each(|line| say(&(line + "\n")));
        });
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Ok(Host { child, to, from, falling: false })
    }

    fn send(&mut self, command: u8, words: &[u64]) -> Result<()> {
        let mut message = vec![command];
        message.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        self.to.write_all(&message).map_err(died)
    }

    fn receive(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.from.read_exact(&mut bytes).map_err(died)?;
        Ok(bytes)
    }

    fn receive_word(&mut self) -> Result<u64> {
        Ok(u64::from_ne_bytes(self.receive(8)?.try_into().unwrap()))
    }
}

fn died(e: std::io::Error) -> Error {
    Error::Usage(format!("the process that runs kernels on the host ended: {e}; its sanitizer says why"))
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backend for Host {
    /// The process was started with its kernels.
    fn load(&mut self, _: &[KernelSource]) -> Result<()> {
        Ok(())
    }

    fn allocate(&mut self, n_bytes: usize) -> Result<Address> {
        // Full of NaN: what is read before it is written shows.
        self.upload(&vec![0xff; n_bytes])
    }

    unsafe fn write(&mut self, address: Address, bytes: &[u8]) -> Result<()> {
        self.send(b'W', &[address, bytes.len() as u64])?;
        self.to.write_all(bytes).map_err(died)
    }

    unsafe fn read(&mut self, address: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.download(address, bytes) }
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8]) -> Result<Address> {
        self.send(b'A', &[bytes.len() as u64])?;
        let address = self.receive_word()?;
        self.send(b'W', &[address, bytes.len() as u64])?;
        self.to.write_all(bytes).map_err(died)?;
        Ok(address)
    }

    unsafe fn download(&mut self, address: Address, bytes: &mut [u8]) -> Result<()> {
        self.send(b'R', &[address, bytes.len() as u64])?;
        bytes.copy_from_slice(&self.receive(bytes.len())?);
        Ok(())
    }

    unsafe fn free(&mut self, address: Address) -> Result<()> {
        self.send(b'F', &[address])
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        self.send(b'L', &[launch.kernel.len() as u64])?;
        self.to.write_all(launch.kernel.as_bytes()).map_err(died)?;
        let mut words: Vec<u64> = launch.grid.into_iter().chain([launch.block, 1, 1]).map(u64::from).collect();
        words.extend([
            launch.cluster.into(),
            launch.shared_bytes.into(),
            self.falling.into(),
            launch.args.len() as u64,
        ]);
        for arg in &launch.args {
            words.push(arg.words().len() as u64);
            words.extend(arg.words());
        }
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        self.to.write_all(&bytes).map_err(died)?;
        self.to.flush().map_err(died)?;
        let length = self.receive_word()? as usize;
        let message = String::from_utf8_lossy(&self.receive(length)?).into_owned();
        if message.is_empty() { Ok(()) } else { Err(Error::Usage(message)) }
    }

    /// What a library would compute, by definition, summed in f64.
    unsafe fn product(&mut self, p: &Product) -> Result<()> {
        let [rows, n_in, n_out] = [p.n_rows, p.n_in, p.n_out].map(|n| n as usize);
        let mut read = |address: Address, n: usize| -> Result<Vec<f32>> {
            let mut values = vec![0.0; if address == 0 { 0 } else { n }];
            // SAFETY: the caller says that the arrays are that long.
            unsafe { self.download(address, bytemuck::cast_slice_mut(&mut values))? };
            Ok(values)
        };
        let (x, weight) = (read(p.x, rows * n_in)?, read(p.weight, n_in * n_out)?);
        let (bias, addend) = (read(p.bias, n_out)?, read(p.addend, rows * n_out)?);
        let element = |at: usize| {
            let (row, column) = (at / n_out, at % n_out);
            let w = |k: usize| weight[if p.transposed { column * n_in + k } else { k * n_out + column }];
            let product: f64 = (0..n_in).map(|k| f64::from(x[row * n_in + k]) * f64::from(w(k))).sum();
            let rest = bias.get(column).copied().unwrap_or(0.0) + addend.get(at).copied().unwrap_or(0.0);
            product as f32 + rest
        };
        let out: Vec<f32> = (0..rows * n_out).map(element).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&out);
        self.send(b'W', &[p.out, bytes.len() as u64])?;
        self.to.write_all(bytes).map_err(died)
    }
}

/// Compiles the kernels, unless the same text was compiled before.
fn build(sources: &[KernelSource]) -> std::result::Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kernels, host) = (root.join("kernels"), root.join("tests/cuda_kernels/host"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-kernels");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;

    let names = sources.iter().flat_map(|s| s.kernels).copied().chain(FAULTY);
    let mut table = String::new();
    let (mut defined, mut included) = (Vec::new(), Vec::new());
    for line in sources.iter().flat_map(|s| s.defines.lines()).filter(|line| !line.is_empty()) {
        if !defined.contains(&line) {
            defined.push(line);
            table += &format!("{line}\n");
        }
    }
    // One unit of translation: a file that makes several programs stands in it once.
    for source in sources {
        if !included.contains(&source.text) {
            included.push(source.text);
            table += source.text;
        }
    }
    table += "#include \"faulty.cu\"\n#define KERNELS";
    table.extend(names.map(|name| format!(" KERNEL({name})")));
    table += "\n";

    let mut hasher = DefaultHasher::new();
    table.hash(&mut hasher);
    for folder in [&kernels, &kernels.join("adjoint"), &host] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().filter(|f| f.is_file()).for_each(|file| std::fs::read(file).unwrap().hash(&mut hasher));
    }
    let compilers = std::env::var_os("CXX").into_iter().chain(["c++", "g++", "clang++"].map(OsString::from));
    let is_there = |compiler: &OsString| {
        let mut ask = Command::new(compiler);
        ask.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let compiler = compilers.into_iter().find(is_there).ok_or("no C++ compiler found: set CXX, or install g++")?;
    compiler.hash(&mut hasher);
    let id = format!("{:016x}", hasher.finish());
    let program = folder.join(&id);
    if program.exists() {
        return Ok(program);
    }
    let include = folder.join(format!("{id}.{}", std::process::id()));
    std::fs::create_dir_all(&include).map_err(|e| e.to_string())?;
    std::fs::write(include.join("kernels.inc"), table).map_err(|e| e.to_string())?;
    let new = include.join("program");
    let compile = |sanitize: &[&str]| {
        let mut command = Command::new(&compiler);
        command.args(["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-clobbered"]);
        command.args(sanitize).arg("-include").arg(host.join("shim.hpp"));
        for folder in [&include, &kernels, &kernels.join("adjoint"), &host] {
            command.arg("-I").arg(folder);
        }
        let output = command.arg(host.join("main.cpp")).arg("-o").arg(&new).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    };
    let done = compile(&["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]).or_else(|said| {
        say(&format!("\nWITHOUT SANITIZERS: {compiler:?} cannot build the kernels with them:\n{said}\n"));
        compile(&[])
    });
    let done = done.and_then(|said| {
        eprint!("{said}");
        std::fs::rename(&new, &program).map_err(|e| e.to_string())
    });
    let _ = std::fs::remove_dir_all(&include);
    // Without a compiler the tests skip themselves; kernels that do not compile are a failure.
    done.unwrap_or_else(|said| panic!("{compiler:?} cannot compile the kernels:\n{said}"));
    Ok(program)
}

/// Writes beside the harness, which keeps the output of tests that pass to itself.
pub fn say(message: &str) {
    let _ = std::io::stderr().write_all(message.as_bytes());
}
