let session;
onmessage = async ({ data }) => {
  try {
    if (data.model) {
      // one thread, and nothing to fetch: pages from a disk may not
      Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: data.wasm });
      ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([data.loader], { type: "text/javascript" })) };
      session = await ort.InferenceSession.create(new Uint8Array(data.model));
      postMessage({ ready: true });
      return;
    }
    const started = performance.now();
    const found = await session.run({ images: new ort.Tensor(data.type, data.values, data.shape) });
    postMessage({ milliseconds: performance.now() - started, labels: found.labels.data, confidence: found.confidence?.data });
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};
