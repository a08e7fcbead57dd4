"""What both Slicer modules and the browser app do with a scene: logic on MRML and VTK, without Qt and without torch.

What several kinds of work need lies here; `registration`, `segmentation` and `fusion` have what is theirs. Only this
package and the app import `slicer` and `vtk`. Import the part that is meant: this package imports nothing itself.
"""
