"use strict";
const at = (id) => document.getElementById(id);
const form = JSON.parse(at("form").textContent);
const [image, labels, status] = [at("image"), at("labels"), at("status")];
let worker, file, map;

const report = (text, bad = false) => {
  status.textContent = text;
  status.classList.toggle("bad", bad);
};

// ---- the model ----

async function unpack(id) {
  const packed = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
  at(id).remove();
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const ask = (message, moved = []) =>
  new Promise((done, fail) => {
    worker.onmessage = ({ data }) => (data.error ? fail(new Error(data.error)) : done(data));
    worker.onerror = (event) => fail(new Error(event.message || "the model's thread ended"));
    worker.postMessage(message, moved);
  });

async function start() {
  const [runtime, loader, wasm, model] = await Promise.all(["runtime", "loader", "wasm", "model"].map(unpack));
  worker = new Worker(URL.createObjectURL(new Blob([runtime, "\n", at("worker").textContent], { type: "text/javascript" })));
  await ask({ loader, wasm, model }, [wasm, model]);
  at("file").disabled = false;
  report("Ready.");
}

// ---- an image ----

// Pixels at the size that the graph gets them, on white where they are transparent.
async function read(given) {
  const bitmap = await createImageBitmap(given, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const [tall, wide] = form.size ?? [Number(at("side").value), Number(at("side").value)];
  const scale = Math.min(1, tall / bitmap.height, wide / bitmap.width);
  const [height, width] = [bitmap.height, bitmap.width].map((side) => Math.max(1, Math.round(side * scale)));
  for (const canvas of [image, labels]) Object.assign(canvas, { width, height });
  const context = image.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return { height, width, own: [bitmap.height, bitmap.width], pixels: context.getImageData(0, 0, width, height).data };
}

// Bytes b H W c, or floats b c H W in [0, 1], padded at the right and below to a fixed size.
function tensor({ height, width, pixels }) {
  const [tall, wide] = form.size ?? [height, width];
  const count = form.channels;
  const bytes = form.input === "bytes";
  const values = new (bytes ? Uint8Array : Float32Array)(tall * wide * count);
  for (let channel = 0; channel < count; channel++) {
    const [step, first] = bytes ? [count, channel] : [1, channel * tall * wide];
    const padding = bytes ? Math.round(255 * form.padding[channel]) : form.padding[channel];
    if (tall > height || wide > width) for (let i = 0; i < tall * wide; i++) values[first + i * step] = padding;
    for (let y = 0, from = channel; y < height; y++) {
      for (let x = 0, to = first + y * wide * step; x < width; x++, from += 4, to += step) {
        values[to] = bytes ? pixels[from] : pixels[from] / 255;
      }
    }
  }
  const shape = bytes ? [1, tall, wide, count] : [1, count, tall, wide];
  return { type: bytes ? "uint8" : "float32", values, shape };
}

async function segment() {
  if (!file || at("file").disabled) return;
  at("file").disabled = true;
  try {
    report("Reading the image …");
    const shown = await read(file);
    const { height, width, own, pixels } = shown;
    if (form.channels === 1 && pixels.some((value, i) => i % 4 < 3 && value !== pixels[i - (i % 4)])) {
      throw new Error("this model takes images of grey alone");
    }
    report("Segmenting …");
    const input = tensor(shown);
    const found = await ask(input, [input.values.buffer]);
    const wide = input.shape[form.input === "bytes" ? 2 : 3];
    const cut = (values) => {
      if (!values || values.length === height * width) return values;
      const part = new values.constructor(height * width);
      for (let y = 0; y < height; y++) part.set(values.subarray(y * wide, y * wide + width), y * width);
      return part;
    };
    map = { height, width, ids: cut(found.labels), confidence: cut(found.confidence) };
    await paint();
    const smaller = own[0] === height && own[1] === width ? "" : `, made smaller from ${own[1]} × ${own[0]}`;
    report(`${width} × ${height} px${smaller}: ${(found.milliseconds / 1000).toFixed(2)} s.`);
  } catch (error) {
    report(`${file.name || "The image"} could not be segmented: ${error.message}`, true);
  }
  at("file").disabled = false;
}

// ---- its labels ----

async function paint() {
  const { height, width, ids } = map;
  const context = labels.getContext("2d");
  const painted = context.createImageData(width, height);
  const counts = new Array(256).fill(0);
  for (let i = 0; i < ids.length; i++) {
    const [red, green, blue] = form.classes[ids[i]].colour;
    painted.data[4 * i] = red;
    painted.data[4 * i + 1] = green;
    painted.data[4 * i + 2] = blue;
    painted.data[4 * i + 3] = 255;
    counts[ids[i]]++;
  }
  context.putImageData(painted, 0, 0);
  const order = form.classes.map((_, id) => id).filter((id) => counts[id]).sort((a, b) => counts[b] - counts[a]);
  const percent = (id) => (1000 * counts[id] < ids.length ? "< 0.1 %" : `${((100 * counts[id]) / ids.length).toFixed(1)} %`);
  at("legend").replaceChildren(...order.map((id) => row(form.classes[id], percent(id))));
  image.setAttribute("aria-label", `The image under its labels: ${order.map((id) => `${form.classes[id].name} ${percent(id)}`).join(", ")}`);
  URL.revokeObjectURL(at("save").href);
  at("save").href = URL.createObjectURL(await png(map));
  at("save").download = `${(file.name || "image").replace(/\.[^.]*$/, "")}_labels.png`;
  at("save").hidden = at("result").hidden = false;
  at("pixel").textContent = "Point at a pixel for its class.";
}

function row({ name, colour }, share) {
  const [item, swatch, title, part] = ["li", "i", "span", "span"].map((tag) => document.createElement(tag));
  swatch.className = "swatch";
  swatch.style.background = `rgb(${colour})`;
  Object.assign(title, { className: "name", textContent: name });
  Object.assign(part, { className: "share", textContent: share });
  item.append(swatch, title, part);
  return item;
}

// Class ids as an 8-bit PNG with the classes' colours as its palette, as `semask predict` writes them.
async function png({ height, width, ids }) {
  const lines = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) lines.set(ids.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = await new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0803);
  const palette = new Uint8Array(768);
  form.classes.forEach(({ colour }, id) => palette.set(colour, 3 * id));
  const parts = [["IHDR", header.buffer], ["PLTE", palette], ["IDAT", packed], ["IEND", new ArrayBuffer(0)]];
  return new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), ...parts.map(chunk)], { type: "image/png" });
}

function chunk([name, content]) {
  const bytes = new Uint8Array(content.byteLength + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.byteLength);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(new Uint8Array(content), 8);
  let sum = -1;
  for (const byte of bytes.subarray(4, -4)) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  view.setUint32(bytes.length - 4, ~sum);
  return bytes;
}

// ---- the page ----

function take(files) {
  const chosen = [...(files ?? [])][0];
  if (!chosen) return;
  file = chosen;
  segment();
}
const fade = () => (labels.style.opacity = at("opacity").value / 100);
at("file").addEventListener("change", (event) => take(event.target.files));
at("side")?.addEventListener("change", segment);
at("opacity").addEventListener("input", fade);
addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
at("stage").addEventListener("pointermove", (event) => {
  if (!map) return;
  const box = image.getBoundingClientRect();
  const x = Math.min(map.width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * map.width)));
  const y = Math.min(map.height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * map.height)));
  const place = y * map.width + x;
  const certain = map.confidence ? `, ${(100 * map.confidence[place]).toFixed(0)} % certain` : "";
  at("pixel").textContent = `x ${x}, y ${y}: ${form.classes[map.ids[place]].name}${certain}`;
});
fade();
start().catch((error) => report(`This browser cannot run the model: ${error.message}`, true));
