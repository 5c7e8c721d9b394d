//! Joins lane's own cloud-init part and the user's file as MIME multipart. Reads no file.
