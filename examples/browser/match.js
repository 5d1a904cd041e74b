// Matches two photos in the page, by onnxruntime-web and a file of `ripe export`; nothing is sent anywhere.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const MODEL = "../../ripe/weights/compact.onnx";
const PHOTOS = ["../../ripe/assets/motorcycle_left.jpg", "../../ripe/assets/motorcycle_right.jpg"];
const LONG_SIDE = 1024; // larger photos are shrunk to it, so that a telephone is not kept waiting
const SHORT_SIDE = 16; // what the network needs
const GAP = 8; // pixels between the photos
const LINES = 150; // more hide the photos

const $ = id => document.getElementById(id);
ort.env.wasm.numThreads = 1; // more need a server that sends the headers of cross-origin isolation
const session = ort.InferenceSession.create(MODEL, { logSeverityLevel: 3 }); // errors
let shown = null; // {photos, matches}

/** A photo from its file: upright, at most LONG_SIDE large, and how many of its own pixels a pixel of it spans. */
async function read(blob) {
  const own = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const shrink = Math.min(1, LONG_SIDE / Math.max(own.width, own.height));
  const [width, height] = [own.width, own.height].map(side => Math.round(side * shrink));
  if (Math.min(width, height) < SHORT_SIDE) throw new Error(`A photo needs ${SHORT_SIDE} pixels or more on each side.`);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(own, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data; // RGBA, row by row
  const planes = new Float32Array(3 * width * height); // RGB in 0..1, colour by colour, as the network takes it
  for (let i = 0; i < width * height; i++)
    for (let channel = 0; channel < 3; channel++) planes[channel * width * height + i] = pixels[4 * i + channel] / 255;
  return { canvas, planes, width, height, scale: [own.width / width, own.height / height] };
}

/** Keypoints as [x, y] in pixels of the shrunk photo, the centre of the top-left one at (0, 0), and descriptors. */
async function extract(photo) {
  const image = new ort.Tensor("float32", photo.planes, [1, 3, photo.height, photo.width]);
  const { keypoints, descriptors } = await (await session).run({ image });
  const [, count, length] = descriptors.dims;
  const rows = (values, size) => Array.from({ length: count }, (_, i) => values.subarray(i * size, (i + 1) * size));
  return { keypoints: rows(keypoints.data, 2), descriptors: rows(descriptors.data, length) };
}

/** Mutual nearest neighbours: of descriptors of length 1 the inner product is the similarity. */
function mutualNearest(first, second) {
  const forward = first.map(() => [-2, -1]), backward = second.map(() => [-2, -1]); // similarity and partner
  first.forEach((a, i) => second.forEach((b, j) => {
    let similarity = 0;
    for (let d = 0; d < a.length; d++) similarity += a[d] * b[d];
    if (similarity > forward[i][0]) forward[i] = [similarity, j];
    if (similarity > backward[j][0]) backward[j] = [similarity, i];
  }));
  return forward.flatMap(([similarity, j], i) => (j >= 0 && backward[j][1] === i ? [{ i, j, similarity }] : []));
}

async function match() {
  $("match").disabled = true;
  $("save").hidden = true;
  try {
    const blobs = await Promise.all(["first", "second"].map(async (id, side) =>
      $(id).files[0] ?? (await fetch(PHOTOS[side])).blob()));
    say("Reading…");
    const photos = await Promise.all(blobs.map(read));
    shown = { photos, matches: [] };
    draw();
    const features = [];
    for (const photo of photos) {
      await say(`Finding keypoints in photo ${features.length + 1} of 2…`);
      features.push(await extract(photo));
    }
    await say("Matching…");
    const found = mutualNearest(features[0].descriptors, features[1].descriptors);
    shown.matches = found.map(({ i, j, similarity }) =>
      ({ points: [features[0].keypoints[i], features[1].keypoints[j]], similarity }));
    shown.matches.sort((a, b) => a.similarity - b.similarity); // the best are drawn last, on top
    draw();
    offer();
  } catch (error) {
    say(error instanceof DOMException ? "A file is not a photo that this browser can read." : error.message, true);
  }
  $("match").disabled = false;
}

/** Shows a message, and waits until it is on the screen. */
function say(message, isError = false) {
  $("status").textContent = message;
  $("status").classList.toggle("error", isError);
  return new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
}

/** Both photos, beside each other or, on narrow screens, one above the other, and matches, coloured by their place. */
function draw() {
  if (!shown) return;
  const { photos: [a, b], matches } = shown;
  const beside = innerWidth > 700;
  const offset = beside ? [a.width + GAP, 0] : [0, a.height + GAP];
  const canvas = $("canvas"), context = canvas.getContext("2d");
  canvas.width = beside ? a.width + GAP + b.width : Math.max(a.width, b.width);
  canvas.height = beside ? Math.max(a.height, b.height) : a.height + GAP + b.height;
  context.drawImage(a.canvas, 0, 0);
  context.drawImage(b.canvas, ...offset);
  const least = Number($("similarity").value);
  const kept = matches.filter(match => match.similarity >= least);
  const thin = canvas.width / canvas.clientWidth; // as wide on the screen, however the canvas is scaled
  const step = Math.ceil(kept.length / LINES);
  kept.forEach(({ points: [[x0, y0], [x1, y1]] }, index) => {
    const ends = [[x0 + 0.5, y0 + 0.5], [x1 + 0.5 + offset[0], y1 + 0.5 + offset[1]]]; // a canvas's pixels begin at 0
    context.strokeStyle = context.fillStyle = `hsl(${360 * x0 / a.width} 95% ${75 - 35 * y0 / a.height}%)`;
    if (index % step === 0) {
      context.lineWidth = thin;
      context.globalAlpha = 0.7;
      context.beginPath();
      context.moveTo(...ends[0]);
      context.lineTo(...ends[1]);
      context.stroke();
      context.globalAlpha = 1;
    }
    for (const end of ends) {
      context.beginPath();
      context.arc(...end, 2 * thin, 0, 2 * Math.PI);
      context.fill();
    }
  });
  if (matches.length) say(`${kept.length} of ${matches.length} matches have a similarity of ${least.toFixed(2)} or more`);
}

/** All matches as a file, x0,y0,x1,y1,similarity in pixels of the photos as they were chosen. */
function offer() {
  const original = (point, scale) => [0, 1].map(axis => ((point[axis] + 0.5) * scale[axis] - 0.5).toFixed(4));
  const lines = shown.matches.map(({ points, similarity }) =>
    [...points.flatMap((point, side) => original(point, shown.photos[side].scale)), similarity.toFixed(4)].join());
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(new Blob(["x0,y0,x1,y1,similarity\n", lines.join("\n"), "\n"]));
  $("save").hidden = false;
  if (!lines.length) say("No matches");
}

$("match").addEventListener("click", match);
$("similarity").addEventListener("input", () => {
  $("least").textContent = Number($("similarity").value).toFixed(2);
  draw();
});
addEventListener("resize", draw);
match();
