// Uploads a picture as it is, with its progress: fetch() cannot tell of an upload.

/** Send the file to `url`; the promise is fulfilled with its id. */
export function upload(url, file, token, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.responseType = "json";
    request.setRequestHeader("X-CSRFToken", token);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("load", () => {
      if (request.status === 200) resolve(request.response.id);
      else reject(new Error(request.response?.error ?? `the server answered ${request.status}`));
    });
    request.addEventListener("error", () => reject(new Error("the connection was lost")));
    request.send(file);
  });
}
