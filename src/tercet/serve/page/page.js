// Selects images by drop, paste, file dialog or camera, sends them to this server, and shows the predictions.

import { predictionCard } from "/drawing.js";

const byId = (id) => document.getElementById(id);
const MAX_CARDS = 50;
let limits = { max_images: 1 };
let stream = null;
let latestRequest = 0;

function setStatus(text) {
  byId("status").textContent = text;
}

async function loadModelInfo() {
  const response = await fetch("/v1/model");
  const model = await response.json();
  limits = model.limits;
  byId("name").textContent = model.model;
  document.title = model.model;
  const members = model.members.map((member) => member.name).join(", ");
  byId("about").textContent = `${model.classes.length} ${model.sets ? "labels" : "classes"}, members: ${members}`;
}

async function predict(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name || "image");
  const response = await fetch("/v1/predict", { method: "POST", body: form });
  const body = await response.json();
  if (response.ok) return body.predictions;
  if (response.status === 503) throw new Error("The server is overloaded. Try again in a moment.");
  return files.map((file) => ({ file: file.name, error: body.error }));
}

async function show(list) {
  const files = Array.from(list);
  if (!files.length) return;
  const request = ++latestRequest;
  setStatus(files.length > 1 ? `Classifying ${files.length} images…` : "Classifying the image…");
  try {
    for (let first = 0; first < files.length; first += limits.max_images) {
      const batch = files.slice(first, first + limits.max_images);
      const predictions = await predict(batch);
      byId("predictions").prepend(...batch.map((file, index) => predictionCard(file, predictions[index])));
      while (byId("predictions").children.length > MAX_CARDS) byId("predictions").lastChild.remove();
    }
    if (request === latestRequest) setStatus("");
  } catch (error) {
    setStatus(error instanceof TypeError ? "The server cannot be reached." : error.message);
  }
}

function addDropAndPasteListeners() {
  const area = byId("drop");
  addEventListener("dragover", (event) => {
    event.preventDefault();
    area.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) area.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    show(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData) show(event.clipboardData.files);
  });
}

function addFileListeners() {
  byId("choose").addEventListener("click", () => byId("files").click());
  for (const id of ["files", "photo"]) {
    byId(id).addEventListener("change", () => {
      show(byId(id).files);
      byId(id).value = "";
    });
  }
}

function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  byId("viewfinder").hidden = true;
  byId("camera").focus();
}

async function openCamera() {
  // Without HTTPS or permission the page cannot use the camera, but a phone offers its camera app.
  if (!navigator.mediaDevices) return byId("photo").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    setStatus("No camera is available to this page.");
    return byId("photo").click();
  }
  byId("viewfinder").hidden = false;
  byId("video").srcObject = stream;
  byId("capture").disabled = true;
  await new Promise((ready) => byId("video").addEventListener("loadeddata", ready, { once: true }));
  byId("capture").disabled = false;
  byId("capture").focus();
}

function captureImage() {
  const video = byId("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => show([new File([blob], "camera.png", { type: "image/png" })]), "image/png");
}

addDropAndPasteListeners();
addFileListeners();
byId("camera").addEventListener("click", openCamera);
byId("capture").addEventListener("click", captureImage);
byId("stop").addEventListener("click", closeCamera);
loadModelInfo().catch(() => setStatus("The server cannot be reached."));
